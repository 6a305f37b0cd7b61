/** What the cache knows of a kernel, and how its variants are told apart. */
import type { KernelCompileError } from '../errors.ts';
import type { BufferArgument, Kernel, KernelShape, SelectorValue } from './kernel.ts';
import type { KernelLayout } from './pipelines.ts';

/** Arguments by name, as they come at a launch. */
export type Values = Readonly<Record<string, number | boolean | string | BufferArgument>>;

/** A compiled variant of a kernel. */
export interface Variant {
  /** The values it was chosen by, in the order of the kernel's shape; once it turns out not to compile, values that no launch has. */
  keys: readonly SelectorValue[];
  readonly pipeline: GPUComputePipeline;
  /** The cache's epoch when it was last recorded: what eviction goes by. */
  used: number;
}

/** What the cache knows of one kernel: layouts, frozen values, finished variants and those in flight. */
export interface KernelEntry {
  readonly kernel: Kernel;
  readonly shape: KernelShape;
  readonly layout: KernelLayout;
  readonly frozen: ReadonlyMap<string, SelectorValue>;
  readonly variants: Variant[];
  readonly compiling: { readonly keys: readonly SelectorValue[]; readonly done: Promise<Variant> }[];
  /** Why variants that a launch could not wait for did not compile, by their full key. */
  readonly failures: Map<string, KernelCompileError>;
  /** Sites prepared. While there are none, nothing but a warm-up has fixed the frozen values. */
  sites: number;
}

export function keysOf(shape: KernelShape, values: Values): SelectorValue[] {
  return shape.keys.map(({ name, of }) => (of ? of(values[name] as number) : (values[name] as SelectorValue)));
}

/** The frozen values of a call. */
export function frozenOf(shape: KernelShape, values: Values): Map<string, SelectorValue> {
  return new Map(shape.frozen.map((name) => [name, values[name] as SelectorValue]));
}

/** For a Map: as typed as `sameKeys`, with the frozen values too. */
export function fullKey(shape: KernelShape, values: Values): string {
  const known = [...keysOf(shape, values), ...shape.frozen.map((name) => values[name] as SelectorValue)];
  return JSON.stringify(known.map((value) => [typeof value, Object.is(value, -0) ? '-0' : String(value)]));
}

/** Typed, position by position: (1, 16) and (11, 6) differ, so do 1 and '1', and 0 and -0; NaN is itself. */
export function sameKeys(a: readonly SelectorValue[], b: readonly SelectorValue[]): boolean {
  return a.every((value, i) => Object.is(value, b[i]));
}

export function selectorsOf(
  shape: KernelShape,
  frozen: ReadonlyMap<string, SelectorValue>,
  keys: readonly SelectorValue[],
): Record<string, SelectorValue> {
  const selectors: Record<string, SelectorValue> = Object.fromEntries(frozen);
  for (let i = 0; i < keys.length; i++) selectors[shape.keys[i].name] = keys[i];
  return selectors;
}

/** Keys by name, for messages and manifests. */
export function namedKeys(shape: KernelShape, keys: readonly SelectorValue[]): Record<string, SelectorValue> {
  return selectorsOf(shape, new Map(), keys);
}
