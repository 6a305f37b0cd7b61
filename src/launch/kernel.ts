/**
 * Kernel declarations: what a WGSL kernel takes, and which of it can change from call to call. Pure: needs no GPU.
 *
 * Every argument belongs to exactly one class (see `ArgumentDeclaration`), and the class says when it is looked at.
 */
import { LaunchArgumentError } from '../errors.ts';

/** A buffer, or a range of one (bytes), to bind. */
export type BufferArgument = GPUBuffer | { readonly buffer: GPUBuffer; readonly offset: number; readonly size: number };

/** Scalar types that a WGSL override or an argument struct can hold. */
export type ScalarType = 'u32' | 'i32' | 'f32';
/** Types of values that select a pipeline. `text` values appear in the prelude only, the others are WGSL overrides of the same name. */
export type SelectorType = ScalarType | 'bool' | 'text';
/** A value that selects a pipeline. */
export type SelectorValue = number | boolean | string;

/**
 * | class    | meaning                                                        | looked at                         |
 * |----------|----------------------------------------------------------------|-----------------------------------|
 * | key      | selects a pipeline                                             | every launch                      |
 * | bucket   | selects a pipeline by a function of the value                  | every launch                      |
 * | frozen   | selects a pipeline, but one value per cache                    | once, when prepared               |
 * | perCall  | a field of the WGSL struct `Arguments`, rewritten in place     | every launch, written, not checked |
 * | grid     | a count that only `workgroups` reads                           | every launch, by `workgroups`     |
 * | buffer   | a storage buffer                                               | identity, once, when prepared     |
 */
export type ArgumentDeclaration =
  | { readonly class: 'key'; readonly type: SelectorType }
  | { readonly class: 'bucket'; readonly type: SelectorType; readonly of: (value: number) => SelectorValue }
  | { readonly class: 'frozen'; readonly type: SelectorType }
  | { readonly class: 'perCall'; readonly type: ScalarType }
  | { readonly class: 'grid' }
  | { readonly class: 'buffer'; readonly access: 'read' | 'write' };

export type ArgumentDeclarations = Readonly<Record<string, ArgumentDeclaration>>;

type ValueOf<D extends ArgumentDeclaration> = D extends { class: 'buffer' }
  ? BufferArgument
  : D extends { class: 'bucket' } | { class: 'perCall' } | { class: 'grid' }
    ? number
    : D extends { type: infer T }
      ? T extends 'bool'
        ? boolean
        : T extends 'text'
          ? number | string
          : number
      : never;

/** All arguments of a kernel by name, as a call site passes them. */
export type ArgumentsOf<A extends ArgumentDeclarations> = { -readonly [Name in keyof A]: ValueOf<A[Name]> };

/** Key, bucketed and frozen values by name, as the prelude sees them (buckets already mapped). */
export type SelectorsOf<A extends ArgumentDeclarations> = {
  [Name in keyof A as A[Name] extends { class: 'key' | 'bucket' | 'frozen' } ? Name : never]: A[Name] extends { class: 'bucket' }
    ? SelectorValue
    : ValueOf<A[Name]>;
};

/** A kernel: one WGSL entry point `main`, what it takes, and how many workgroups a call needs. */
export interface Kernel<A extends ArgumentDeclarations = ArgumentDeclarations> {
  /** For errors, labels and statistics. */
  readonly name: string;
  /** WGSL texts, joined in this order after the prelude. */
  readonly source: readonly string[];
  /** Short WGSL text in front of the source: types and array sizes, which overrides cannot express on every host. */
  readonly prelude?: (selectors: SelectorsOf<A>) => string;
  /**
   * The arguments in declaration order. Buffers take bindings 0, 1, ... of group 0; the per-call values are the fields of the
   * WGSL struct `Arguments`, which the source declares and reads through the name `args`.
   */
  readonly arguments: A;
  /** The grid, from the arguments of the call. A dimension that is left out is 1; a launch with a 0 is skipped. */
  readonly workgroups: {
    readonly x: (args: ArgumentsOf<A>) => number;
    readonly y?: (args: ArgumentsOf<A>) => number;
    readonly z?: (args: ArgumentsOf<A>) => number;
  };
}

/** Most fields of a WGSL struct `Arguments`: a launch's values fill one slot of 256 bytes. */
const maxPerCall = 64;

/**
 * Declares a kernel. The declaration is checked here, once; the result is a plain frozen record.
 * @throws {LaunchArgumentError} for more per-call values than a slot holds.
 */
export function defineKernel<const A extends ArgumentDeclarations>(kernel: Kernel<A>): Kernel<A> {
  const perCall = Object.keys(kernel.arguments).filter((name) => kernel.arguments[name].class === 'perCall');
  if (perCall.length > maxPerCall)
    throw new LaunchArgumentError(kernel.name, perCall[maxPerCall], `is one more than the ${maxPerCall} per-call values of a launch.`);
  return Object.freeze(kernel);
}

export const key = <const T extends SelectorType>(type: T) => ({ class: 'key', type }) as const;
export const bucket = <const T extends SelectorType>(type: T, of: (value: number) => SelectorValue) =>
  ({ class: 'bucket', type, of }) as const;
export const frozen = <const T extends SelectorType>(type: T) => ({ class: 'frozen', type }) as const;
export const perCall = <const T extends ScalarType>(type: T) => ({ class: 'perCall', type }) as const;
export const gridCount = { class: 'grid' } as const;
export const readBuffer = { class: 'buffer', access: 'read' } as const;
export const writeBuffer = { class: 'buffer', access: 'write' } as const;

/** A declaration taken apart into the lists that the cache walks; made once per kernel and cache. */
export interface KernelShape {
  readonly keys: readonly { readonly name: string; readonly of?: (value: number) => SelectorValue }[];
  readonly frozen: readonly string[];
  /** Names of selectors that are WGSL overrides. */
  readonly constants: readonly string[];
  readonly perCall: readonly { readonly name: string; readonly type: ScalarType }[];
  readonly buffers: readonly { readonly name: string; readonly access: 'read' | 'write' }[];
}

export function shapeOf(kernel: Kernel): KernelShape {
  const entries = Object.entries(kernel.arguments);
  const selectors = entries.filter(([, d]) => d.class === 'key' || d.class === 'bucket' || d.class === 'frozen');
  return {
    keys: selectors.flatMap(([name, d]) => (d.class === 'bucket' ? [{ name, of: d.of }] : d.class === 'key' ? [{ name }] : [])),
    frozen: selectors.flatMap(([name, d]) => (d.class === 'frozen' ? [name] : [])),
    constants: selectors.flatMap(([name, d]) => ('type' in d && d.type !== 'text' ? [name] : [])),
    perCall: entries.flatMap(([name, d]) => (d.class === 'perCall' ? [{ name, type: d.type }] : [])),
    buffers: entries.flatMap(([name, d]) => (d.class === 'buffer' ? [{ name, access: d.access }] : [])),
  };
}

/** The whole WGSL text of one variant: prelude, the binding of the argument struct, sources. */
export function joinSource(kernel: Kernel, selectors: Readonly<Record<string, SelectorValue>>): string {
  const shape = shapeOf(kernel);
  const parts = [kernel.prelude?.(selectors as never) ?? ''];
  if (shape.perCall.length > 0) parts.push(`@group(0) @binding(${shape.buffers.length}) var<uniform> args: Arguments;`);
  return [...parts, ...kernel.source].filter((part) => part !== '').join('\n');
}
