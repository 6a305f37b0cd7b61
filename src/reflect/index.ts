/**
 * `pagewise/reflect`: kernel declarations derived from any WGSL text. Needs the package `wgsl_reflect`; the rest of Pagewise does not
 * load it.
 */
import { ReflectionError } from '../errors.ts';
import {
  type ArgumentDeclaration,
  bucket,
  type cappedCount,
  defineKernel,
  frozen,
  type gridCount,
  indirectGrid,
  type Kernel,
  key,
  perCall,
  readBuffer,
  type SelectorValue,
  swappable,
  writeBuffer,
} from '../launch/kernel.ts';
import { splitDeclarations } from './declarations.ts';
import { readInterface, type ShaderInterface } from './interface.ts';

/** The numbers of a call by argument name: per-call values, counts and numeric keys. */
export type CallNumbers = Readonly<Record<string, number>>;

export interface ReflectOptions {
  /** For errors, labels, statistics and manifests; default: the entry point's name. */
  readonly name?: string;
  /** Which function to call; may be left out where one alone is marked `@compute`. */
  readonly entryPoint?: string;
  /** The grid, from the numbers of the call; or the name of an argument whose buffer will hold it. */
  readonly workgroups:
    | {
        readonly x: (numbers: CallNumbers) => number;
        readonly y?: (numbers: CallNumbers) => number;
        readonly z?: (numbers: CallNumbers) => number;
      }
    | { readonly indirect: string };
  /** Arguments that the WGSL does not have and `workgroups` reads: `{ rows: gridCount }`, or `cappedCount(65535)`. */
  readonly counts?: Readonly<Record<string, typeof gridCount | ReturnType<typeof cappedCount>>>;
  /** Overrides with one value for a cache's life. */
  readonly frozen?: readonly string[];
  /** Overrides that get a function of the argument, of which only the result selects a pipeline. */
  readonly buckets?: Readonly<Record<string, (value: number) => SelectorValue>>;
  /** Overrides that are no arguments: they keep the values that the WGSL gives them. */
  readonly defaults?: readonly string[];
  /** Buffers for which each launch may pass another one. */
  readonly swappable?: readonly string[];
}

/**
 * Derives a kernel from WGSL text that was not written for Pagewise.
 *
 * - A storage buffer becomes a buffer argument of the same name.
 * - An override becomes a key, unless `frozen`, `buckets` or `defaults` names it.
 * - The fields of the uniform become per-call values; a vector `origin` gives `origin.x`, `origin.y`. There may be one uniform: a struct
 *   of scalars and vectors, or one such value.
 *
 * What the entry point does not reach is no argument. Names and types are known when the program runs only, so arguments are plain
 * records, and `LaunchCache.prepare` checks them.
 *
 * @throws {ReflectionError} for textures, samplers, groups other than 0, several uniforms, and uniform members that are arrays, structs or
 * matrices.
 */
export function reflectKernel(wgsl: string, options: ReflectOptions): Kernel {
  const shader = readInterface(options.name, wgsl, options.entryPoint);
  const name = options.name ?? shader.entryPoint;
  checkNames(name, shader, options);
  const declared: Record<string, ArgumentDeclaration> = {};
  const declare = (argument: string, declaration: ArgumentDeclaration, what: string) => {
    if (Object.hasOwn(declared, argument))
      throw new ReflectionError(name, argument, `names ${what} and something else. Give one of them another name.`);
    declared[argument] = declaration;
  };
  for (const { name: argument, type } of shader.overrides) {
    if (options.defaults?.includes(argument)) continue;
    const of = options.buckets?.[argument];
    declare(argument, options.frozen?.includes(argument) ? frozen(type) : of ? bucket(type, of) : key(type), 'an override');
  }
  for (const { name: argument, access } of shader.buffers) {
    const plain = access === 'read' ? readBuffer : writeBuffer;
    declare(argument, options.swappable?.includes(argument) ? swappable(plain) : plain, 'a buffer');
  }
  for (const { name: argument, type } of shader.uniform?.fields ?? []) declare(argument, perCall(type), 'a field of the uniform');
  for (const [argument, count] of Object.entries(options.counts ?? {})) declare(argument, count, 'a count');
  const { workgroups } = options;
  if ('indirect' in workgroups) declare(workgroups.indirect, indirectGrid, 'the buffer of the grid');

  const selects = Object.values(declared).some(({ class: kind }) => kind === 'key' || kind === 'bucket' || kind === 'frozen');
  const { uniform } = shader;
  return defineKernel({
    name,
    source: [withoutIds(wgsl)],
    arguments: declared,
    workgroups: workgroups as Kernel['workgroups'],
    wgsl: {
      entryPoint: shader.entryPoint,
      bindings: Object.fromEntries(shader.buffers.map(({ name: argument, binding }) => [argument, binding])),
      ...(uniform && {
        uniform: {
          binding: uniform.binding,
          size: uniform.size,
          offsets: Object.fromEntries(uniform.fields.map(({ name: argument, offset }) => [argument, offset])),
        },
      }),
    },
    ...(!selects && { singleVariant: true }),
  });
}

/** Names in options must be names in the WGSL. */
function checkNames(kernel: string, { overrides, buffers }: ShaderInterface, options: ReflectOptions): void {
  const { defaults = [], swappable: swapped = [] } = options;
  const chosen = [...(options.frozen ?? []), ...Object.keys(options.buckets ?? {}), ...defaults];
  const check = (names: readonly string[], there: readonly { readonly name: string }[], what: string) => {
    const unknown = names.find((name) => !there.some((one) => one.name === name));
    if (unknown === undefined) return;
    const list = there.map(({ name }) => name).join(', ') || 'none';
    throw new ReflectionError(kernel, unknown, `is no ${what} that the entry point reaches. There are: ${list}.`);
  };
  check(chosen, overrides, 'override');
  check(swapped, buffers, 'storage buffer');
  const twice = chosen.find((name, i) => chosen.indexOf(name) !== i);
  if (twice !== undefined) throw new ReflectionError(kernel, twice, 'has several classes. Name it in one of frozen, buckets and defaults.');
  const missing = overrides.find(({ name, hasDefault }) => defaults.includes(name) && !hasDefault);
  if (missing) throw new ReflectionError(kernel, missing.name, 'has no value in the WGSL to keep. Take it out of the option "defaults".');
}

/** Overrides are set by name, so numbers given to them (`@id(7)`) go; every other character keeps its place. */
function withoutIds(wgsl: string): string {
  let result = wgsl;
  for (const { kind, text, start } of splitDeclarations(wgsl)) {
    const id = kind === 'override' ? /@\s*id\s*\([^)]*\)/.exec(text) : null;
    if (!id) continue;
    const at = start + id.index;
    result = result.slice(0, at) + ' '.repeat(id[0].length) + result.slice(at + id[0].length);
  }
  return result;
}
