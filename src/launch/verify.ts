import { type KernelEntry, keysOf, sameKeys, type Values, type Variant } from './entry.ts';
import type { BufferArgument } from './kernel.ts';
import { bufferOf } from './watch.ts';

/** A launch that the cache would have got wrong: an argument was declared (or assumed) not to change, and did. */
export interface FalseHit {
  readonly kernel: string;
  readonly argument: string;
  /** What the cache had resolved the launch with. */
  readonly stored: unknown;
  /** What this call passed. */
  readonly seen: unknown;
}

/**
 * Rebuilds a launch's full key from all its arguments and compares it with what the site would use.
 * @param stored the arguments that the site was prepared with
 * @returns the first difference, or undefined
 */
export function findFalseHit(entry: KernelEntry, variant: Variant, stored: Values, seen: Values): FalseHit | undefined {
  const { kernel, shape } = entry;
  const report = (argument: string, before: unknown, now: unknown): FalseHit => ({
    kernel: kernel.name,
    argument,
    stored: before,
    seen: now,
  });
  for (const name of shape.frozen) if (!Object.is(stored[name], seen[name])) return report(name, stored[name], seen[name]);
  for (const { name } of shape.buffers) {
    if (shape.swappable.includes(name)) continue;
    const [before, now] = [stored[name], seen[name]] as [BufferArgument, BufferArgument];
    if (!sameBuffer(before, now)) return report(name, before, now);
  }
  const keys = keysOf(shape, seen);
  if (sameKeys(variant.keys, keys)) return undefined;
  const index = keys.findIndex((key, i) => !Object.is(key, variant.keys[i]));
  return report(shape.keys[index].name, variant.keys[index], keys[index]);
}

/** The same range of the same buffer. */
export function sameBuffer(a: BufferArgument, b: BufferArgument): boolean {
  if (a === b) return true;
  if (bufferOf(a) !== bufferOf(b)) return false;
  const range = (argument: BufferArgument) => ('buffer' in argument ? [argument.offset, argument.size] : [0, argument.size]);
  const [[offsetA, sizeA], [offsetB, sizeB]] = [range(a), range(b)];
  return offsetA === offsetB && sizeA === sizeB;
}
