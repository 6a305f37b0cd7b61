/** A kernel that takes what an attention kernel takes, and launches of it that break what its declaration promises. */
import { type ArgumentsOf, cappedCount, defineKernel, frozen, key, perCall, readBuffer, writeBuffer } from '../../src/index.ts';
import { type SpecContext, uploadBuffer } from '../harness/harness.ts';

/** output[place] = a number in which each argument has digits of its own. */
export const promisingKernel = defineKernel({
  name: 'promising',
  source: [
    `struct Arguments { place: u32 }
    override heads: u32;
    override window: u32;
    override softcap: f32;
    override scale: f32;
    override stride: u32;
    @group(0) @binding(0) var<storage, read> pool: array<f32>;
    @group(0) @binding(1) var<storage, read> weights: array<f32>;
    @group(0) @binding(2) var<storage, read_write> output: array<f32>;
    @compute @workgroup_size(1) fn main() {
      let selected = f32(heads) + 10.0 * f32(window) + 100.0 * softcap + 1000.0 * scale;
      output[args.place] = selected + pool[stride] + weights[0] + code;
    }`,
  ],
  prelude: ({ dtype, layout }) => `const code = ${(dtype === 'f16' ? 0.5 : 0) + (layout === 'other' ? 0.25 : 0)};`,
  arguments: {
    heads: frozen('u32'),
    window: frozen('u32'),
    softcap: frozen('f32'),
    scale: frozen('f32'),
    stride: frozen('u32'),
    dtype: frozen('text'),
    layout: key('text'),
    pool: readBuffer,
    weights: readBuffer,
    output: writeBuffer,
    place: perCall('u32'),
    sequences: cappedCount(4),
  },
  workgroups: { x: ({ sequences }) => Math.min(sequences, 1) },
});

export type PromisingArguments = ArgumentsOf<typeof promisingKernel.arguments>;

const poolValues = Float32Array.of(10_000, 20_000, 30_000, 40_000);

export function promisingArguments(t: SpecContext): PromisingArguments {
  return {
    ...{ heads: 2, window: 3, softcap: 4, scale: 5, stride: 1, dtype: 'f32', layout: 'one', place: 0, sequences: 1 },
    pool: uploadBuffer(
      t,
      Float32Array.from({ length: 68 }, (_, i) => (i < 64 ? poolValues[i] : poolValues[i - 64] + 5000)),
    ),
    weights: uploadBuffer(t, Float32Array.of(100_000)),
    output: uploadBuffer(t, new Float32Array(128).fill(-77)),
  };
}

/** What the kernel makes of its arguments. `added`: what the buffers passed hold more than those of `promisingArguments`. */
export function promised(args: PromisingArguments, added = 0): number {
  const { heads, window, softcap, scale, stride, dtype, layout } = args;
  const code = (dtype === 'f16' ? 0.5 : 0) + (layout === 'other' ? 0.25 : 0);
  return heads + 10 * window + 100 * softcap + 1000 * scale + poolValues[stride] + 100_000 + code + added;
}

export interface Fault {
  readonly what: string;
  readonly argument: keyof PromisingArguments;
  readonly change: Partial<PromisingArguments>;
  /** What the kernel reads more through the changed buffer. */
  readonly added?: number;
}

/** One of each kind. */
export function faults(t: SpecContext, args: PromisingArguments): readonly Fault[] {
  const reallocated = uploadBuffer(
    t,
    poolValues.map((value) => value + 3000),
  );
  const otherModel = uploadBuffer(t, Float32Array.of(700_000));
  return [
    { what: 'head count', argument: 'heads', change: { heads: 7 } },
    { what: 'window', argument: 'window', change: { window: 0 } },
    { what: 'softcap', argument: 'softcap', change: { softcap: 0 } },
    { what: 'scale of another layer', argument: 'scale', change: { scale: 5.5 } },
    { what: 'stride of another layout', argument: 'stride', change: { stride: 3 } },
    { what: 'dtype', argument: 'dtype', change: { dtype: 'f16' } },
    { what: 'reallocated KV pool', argument: 'pool', change: { pool: reallocated }, added: 3000 },
    {
      what: 'another range of the KV pool',
      argument: 'pool',
      change: { pool: { buffer: args.pool as GPUBuffer, offset: 256, size: 16 } },
      added: 5000,
    },
    { what: "other model's weights", argument: 'weights', change: { weights: otherModel }, added: 600_000 },
    { what: 'two at once', argument: 'heads', change: { heads: 9, weights: args.weights, scale: 6 } },
  ];
}
