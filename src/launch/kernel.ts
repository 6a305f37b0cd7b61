/**
 * Kernel declarations: what a WGSL kernel takes, and which of it can change from call to call. Pure: needs no GPU.
 *
 * Every argument belongs to exactly one class (see `ArgumentDeclaration`), and the class says when it is looked at.
 */
import { LaunchArgumentError } from '../errors.ts';
import { unrollLoops } from './unroll.ts';

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
 * | grid     | a count that only `workgroups` reads, up to its `cap`          | every launch, by `workgroups`     |
 * | buffer   | a storage buffer                                               | identity, once, when prepared; every launch where `swappable` |
 * | indirect | a buffer that holds the grid, on the GPU                       | as a buffer, never bound          |
 */
export type ArgumentDeclaration =
  | { readonly class: 'key'; readonly type: SelectorType }
  | { readonly class: 'bucket'; readonly type: SelectorType; readonly of: (value: number) => SelectorValue }
  | { readonly class: 'frozen'; readonly type: SelectorType }
  | { readonly class: 'perCall'; readonly type: ScalarType }
  | { readonly class: 'grid'; readonly cap?: number }
  | { readonly class: 'buffer'; readonly access: 'read' | 'write'; readonly swappable?: boolean }
  | { readonly class: 'indirect' };

export type ArgumentDeclarations = Readonly<Record<string, ArgumentDeclaration>>;

type ValueOf<D extends ArgumentDeclaration> = D extends { class: 'buffer' } | { class: 'indirect' }
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

/** The interface of WGSL text that was not written for Pagewise. All bindings are in group 0. */
export interface OwnInterface {
  readonly entryPoint: string;
  /** Binding of each buffer argument. */
  readonly bindings: Readonly<Record<string, number>>;
  /** The uniform struct that holds the per-call values: its binding, its size and each field's offset, in bytes. */
  readonly uniform?: { readonly binding: number; readonly size: number; readonly offsets: Readonly<Record<string, number>> };
}

export interface Grid<A extends ArgumentDeclarations = ArgumentDeclarations> {
  readonly x: (args: ArgumentsOf<A>) => number;
  readonly y?: (args: ArgumentsOf<A>) => number;
  readonly z?: (args: ArgumentsOf<A>) => number;
}

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
  /**
   * The grid, from the arguments of the call. A dimension that is left out is 1; a launch with a 0 is skipped. `indirect` names the argument
   * whose buffer holds the grid instead. A grid that is hard to know exactly may be larger, where the kernel's invocations check for themselves.
   */
  readonly workgroups: Grid<A> | { readonly indirect: keyof A & string };
  /**
   * Bytes of workgroup memory of a variant. Where it is said, a variant that needs more than the device grants is a `LimitExceededError` when
   * it is prepared; not every host's compiler notices.
   */
  readonly workgroupMemory?: (selectors: SelectorsOf<A>) => number;
  /** WGSL directives in front of a variant's text, as `enable f16`. */
  readonly directives?: (selectors: SelectorsOf<A>) => readonly string[];
  /** Writes out the loops that ask for it by a comment, see `unrollLoops`. Constants are those of the text, not overrides. */
  readonly unroll?: true;
  /** Set where the WGSL brings its own names and bindings; made by `pagewise/reflect`. */
  readonly wgsl?: OwnInterface;
  /** Says that no argument selects a pipeline, on purpose. Needed where no argument is a key, a bucket or frozen. */
  readonly singleVariant?: true;
}

/** A kernel whatever its arguments, for lists of kernels. */
export type AnyKernel = Pick<Kernel, 'name' | 'source' | 'arguments' | 'wgsl' | 'singleVariant'>;

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
  const selects = Object.values(kernel.arguments).some(({ class: kind }) => kind === 'key' || kind === 'bucket' || kind === 'frozen');
  if (!selects && !kernel.singleVariant) {
    const problem = 'no argument selects a pipeline. Declare one as a key, or say `singleVariant: true`.';
    throw new LaunchArgumentError(kernel.name, '(keys)', problem);
  }
  return Object.freeze(kernel);
}

export const key = <const T extends SelectorType>(type: T) => ({ class: 'key', type }) as const;
export const bucket = <const T extends SelectorType>(type: T, of: (value: number) => SelectorValue) =>
  ({ class: 'bucket', type, of }) as const;
export const frozen = <const T extends SelectorType>(type: T) => ({ class: 'frozen', type }) as const;
export const perCall = <const T extends ScalarType>(type: T) => ({ class: 'perCall', type }) as const;
export const gridCount = { class: 'grid' } as const;
/** A count with a limit: a call beyond it is a `CapacityExceededError`, never dropped work. */
export const cappedCount = (cap: number) => ({ class: 'grid', cap }) as const;
export const indirectGrid = { class: 'indirect' } as const;
export const readBuffer = { class: 'buffer', access: 'read' } as const;
export const writeBuffer = { class: 'buffer', access: 'write' } as const;
/** A buffer argument for which each launch may pass another buffer; the others keep the one that they were prepared with. */
export const swappable = <const B extends { readonly class: 'buffer'; readonly access: 'read' | 'write' }>(buffer: B) =>
  ({ ...buffer, swappable: true }) as const;

/** A declaration taken apart into the lists that the cache walks; made once per kernel and cache. */
export interface KernelShape {
  readonly keys: readonly { readonly name: string; readonly of?: (value: number) => SelectorValue }[];
  readonly frozen: readonly string[];
  /** Names of selectors that are WGSL overrides. */
  readonly constants: readonly string[];
  /** `word` counts words from the start of the struct `Arguments`. */
  readonly perCall: readonly { readonly name: string; readonly type: ScalarType; readonly word: number }[];
  /** Bytes of the struct `Arguments`, in whole vectors of 16; 0 without per-call values. */
  readonly argumentBytes: number;
  readonly argumentBinding: number;
  readonly buffers: readonly { readonly name: string; readonly access: 'read' | 'write'; readonly binding: number }[];
  /** Names of the buffers that may change from launch to launch. */
  readonly swappable: readonly string[];
  readonly caps: readonly { readonly name: string; readonly cap: number }[];
}

export function shapeOf(kernel: Kernel): KernelShape {
  const entries = Object.entries(kernel.arguments);
  const { bindings, uniform } = kernel.wgsl ?? {};
  const perCall = entries.flatMap(([name, d]) => (d.class === 'perCall' ? [{ name, type: d.type }] : []));
  const buffers = entries.flatMap(([name, d]) => (d.class === 'buffer' ? [{ name, access: d.access }] : []));
  const selectors = entries.filter(([, d]) => d.class === 'key' || d.class === 'bucket' || d.class === 'frozen');
  return {
    keys: selectors.flatMap(([name, d]) => (d.class === 'bucket' ? [{ name, of: d.of }] : d.class === 'key' ? [{ name }] : [])),
    frozen: selectors.flatMap(([name, d]) => (d.class === 'frozen' ? [name] : [])),
    constants: selectors.flatMap(([name, d]) => ('type' in d && d.type !== 'text' ? [name] : [])),
    perCall: perCall.map((field, index) => ({ ...field, word: uniform ? uniform.offsets[field.name] / 4 : index })),
    argumentBytes: uniform?.size ?? Math.ceil(perCall.length / 4) * 16,
    argumentBinding: uniform?.binding ?? buffers.length,
    buffers: buffers.map((buffer, index) => ({ ...buffer, binding: bindings?.[buffer.name] ?? index })),
    swappable: entries.flatMap(([name, d]) => (d.class === 'buffer' && d.swappable ? [name] : [])),
    caps: entries.flatMap(([name, d]) => (d.class === 'grid' && d.cap !== undefined ? [{ name, cap: d.cap }] : [])),
  };
}

/** Where a kernel's per-call values come from: a slot of an argument arena, bound as a uniform, or immediates set in the pass. */
export type ArgumentPath = 'arena' | 'immediates';

/**
 * The whole WGSL text of one variant: directives, prelude, the declaration of `args`, sources.
 * @param unknown directives to leave out, see `Gpu.unknownDirectives`
 */
export function joinSource(
  kernel: Kernel,
  selectors: Readonly<Record<string, SelectorValue>>,
  path: ArgumentPath = 'arena',
  unknown?: ReadonlySet<string>,
): string {
  const { perCall, argumentBinding } = shapeOf(kernel);
  const parts = [kernel.prelude?.(selectors as never) ?? '', ...kernel.source];
  if (perCall.length > 0 && !kernel.wgsl) {
    if (path === 'arena') parts.splice(1, 0, `@group(0) @binding(${argumentBinding}) var<uniform> args: Arguments;`);
    else parts.unshift('requires immediate_address_space;\nvar<immediate> args: Arguments;');
  }
  const directives = kernel.directives?.(selectors as never) ?? [];
  parts.unshift(...directives.filter((directive) => !unknown?.has(directive)).map((directive) => `${directive};`));
  const text = parts.filter((part) => part !== '').join('\n');
  return kernel.unroll ? unrollLoops(text) : text;
}
