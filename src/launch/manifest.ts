import { type KernelEntry, namedKeys } from './entry.ts';
import { joinSource, type Kernel, type SelectorValue, shapeOf } from './kernel.ts';

type Named = Readonly<Record<string, SelectorValue>>;

/** The variants that were compiled, as plain JSON: kept over visits, it lets the next one compile ahead of need. */
export interface LaunchManifest {
  readonly version: 1;
  readonly variants: readonly { readonly kernel: string; readonly wgsl: string; readonly frozen: Named; readonly keys: Named }[];
}

export function describeEntries(entries: Iterable<KernelEntry>): LaunchManifest {
  const variants = [...entries].flatMap(({ kernel, shape, frozen, variants }) =>
    variants.map((variant) => {
      const keys = namedKeys(shape, variant.keys);
      const frozenValues = Object.fromEntries(frozen);
      return { kernel: kernel.name, wgsl: hash(joinSource(kernel, { ...frozenValues, ...keys })), frozen: frozenValues, keys };
    }),
  );
  return { version: 1, variants };
}

/** What of a manifest still holds for these kernels. A damaged or foreign manifest holds nothing, and says so. */
export function readManifest(manifest: unknown, kernels: readonly Kernel[]) {
  const variants: { kernel: Kernel; frozen: Named; keys: Named }[] = [];
  const skipped: string[] = [];
  if (!isManifest(manifest)) return { variants, skipped: ['the manifest is damaged or of another version'] };
  for (const { kernel: name, wgsl, frozen, keys } of manifest.variants) {
    const namesakes = kernels.filter((one) => one.name === name);
    const kernel = namesakes.find((one) => holds(one, wgsl, frozen, keys));
    if (kernel) variants.push({ kernel, frozen, keys });
    else skipped.push(namesakes.length === 0 ? `${name}: no such kernel` : `${name}: its WGSL or its arguments have changed`);
  }
  return { variants, skipped };
}

/** Whether a variant's selectors are those of the kernel, by name and type, and make the WGSL that they made. */
function holds(kernel: Kernel, wgsl: string, frozen: Named, keys: Named): boolean {
  const shape = shapeOf(kernel);
  const selectors = { ...frozen, ...keys };
  const isSelector = (name: string) => ['number', 'boolean', 'string'].includes(typeof selectors[name]);
  if (!shape.frozen.every(isSelector) || !shape.keys.every(({ name }) => isSelector(name))) return false;
  if (shape.constants.some((name) => typeof selectors[name] === 'string')) return false;
  try {
    return hash(joinSource(kernel, selectors)) === wgsl;
  } catch {
    return false; // a prelude that cannot make anything of these values
  }
}

/** Whether this has a manifest's form; what it names may be gone. */
export function isManifest(value: unknown): value is LaunchManifest {
  const isRecord = (one: unknown): one is Record<string, unknown> => typeof one === 'object' && one !== null;
  if (!isRecord(value) || value.version !== 1 || !Array.isArray(value.variants)) return false;
  return value.variants.every(
    (one) => isRecord(one) && typeof one.kernel === 'string' && typeof one.wgsl === 'string' && isRecord(one.frozen) && isRecord(one.keys),
  );
}

/** 64 bits of FNV-1a as hexadecimal digits: tells texts apart, guards against nothing. */
export function hash(text: string): string {
  let value = 0xcbf29ce484222325n;
  for (let i = 0; i < text.length; i++) value = BigInt.asUintN(64, (value ^ BigInt(text.charCodeAt(i))) * 0x100000001b3n);
  return value.toString(16).padStart(16, '0');
}
