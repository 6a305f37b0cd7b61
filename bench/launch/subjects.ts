import { type ArgumentsOf, defineKernel, type Gpu, type Kernel, perCall, readBuffer, writeBuffer } from 'pagewise';
import { adapterDefaults } from '../../src/attention/adapters.ts';
import { decodeKernelOf } from '../../src/attention/kernels.ts';
import { kvFormats } from '../../src/attention/layout.ts';
import { PlanWriter, packBatch } from '../../src/attention/plan.ts';
import { chooseDecodeTile, type DecodeTile, tileSizes } from '../../src/attention/tiles/decode.ts';
import type { ArgumentDeclarations } from '../../src/launch/kernel.ts';

/** A kernel to launch, with all that a program of some layers would have around it. */
export interface Subject<A extends ArgumentDeclarations = ArgumentDeclarations> {
  readonly name: string;
  readonly kernel: Kernel<A>;
  /** Complete arguments of each layer's launch; the launches of a step go round them. */
  readonly layers: readonly ArgumentsOf<A>[];
  /** Sets the per-call values of launch `n`: no two in a row are equal. */
  vary(args: ArgumentsOf<A>, n: number): void;
  /** Packs the per-call values by hand, from word `at` on. */
  pack(memory: Memory, at: number, args: ArgumentsOf<A>): void;
  /** Fields of the WGSL struct `Arguments`, as constants: for a launch without arguments. */
  readonly constants: string;
  destroy(): void;
}

/** One memory in the types of per-call values. */
export interface Memory {
  readonly u32: Uint32Array<ArrayBuffer>;
  readonly f32: Float32Array<ArrayBuffer>;
}

export function memoryOf(words: number): Memory {
  const u32 = new Uint32Array(words);
  return { u32, f32: new Float32Array(u32.buffer) };
}

const numLayers = 8;

/** Collects the buffers of a subject. */
function owner(device: GPUDevice) {
  const buffers: GPUBuffer[] = [];
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST;
  return {
    buffer(size: number): GPUBuffer {
      const buffer = device.createBuffer({ label: 'bench', size, usage });
      buffers.push(buffer);
      return buffer;
    },
    destroy: () => buffers.forEach((buffer) => void buffer.destroy()),
  };
}

/**
 * The kernel of attention over a paged cache for single tokens: one sequence of one token, one head, so that the GPU does next to nothing.
 * Its tile is the one that attention takes on this adapter: with another, SwiftShader's threads drive the host's code out of the CPU's caches.
 */
export function decodeSubject({ device, adapter }: Gpu): Subject<ReturnType<typeof decodeKernelOf>['arguments']> {
  const { buffer, destroy } = owner(device);
  const writer = new PlanWriter(256);
  writer.begin();
  const sequence = { tableRow: 0, blocks: [1], seqLen: 1, queryLen: 1 };
  packBatch(writer, [sequence], {
    ...{ blockSize: 8, prefillTokens: 1, segmentKeys: 256, maxPartials: 0, maxSplitQuery: 0, filterByQueryLen: true, cascades: [] },
  });
  const { words } = writer;
  const plan = buffer(1024);
  device.queue.writeBuffer(plan, 0, words, 0, words.length);
  const [blockTable, rotary, partials] = [buffer(256), buffer(256), buffer(256)];
  const layout = { blockSize: 8, numKvHeads: 1, headDim: 8, dtype: 'f32' } as const;
  const plain = {
    memory: 16384,
    maxInvocations: adapterDefaults(adapter).maxInvocations,
    subgroupSize: 0,
    shaderF16: false,
    byteProducts: false,
  };
  const tile = chooseDecodeTile(layout, 1, plain) as DecodeTile;
  const layers = Array.from({ length: numLayers }, () => ({
    ...{
      blockSize: 8,
      numKvHeads: 1,
      headDim: 8,
      kvDtype: kvFormats.f32.code,
      tokenScales: 'false',
      blocksPerBuffer: 2,
      numHeads: 1,
      groupSize: 1,
      ...tileSizes(tile),
    },
    ...{ query: buffer(4096), pool0: buffer(1024), layerData: buffer(256), blockTable, plan, rotary, output: buffer(256), partials },
    ...{ scale: 1, softcap: 0, window: 0, keepFirst: 0, queryStride: 8, queryOffset: 0, rotaryHalf: 0, tableStride: 1 },
    ...{ keyScale: 1, valueScale: 1, alibi: 0, sinks: 0, logSumExp: 0, numItems: 1 },
  }));
  return {
    name: 'decode',
    kernel: decodeKernelOf(tile),
    layers,
    vary(args, n) {
      args.scale = 1 / (2 + (n % 1024));
      args.window = 1 + (n % 64);
    },
    pack({ f32, u32 }, at, args) {
      f32[at] = args.scale;
      f32[at + 1] = args.softcap;
      u32[at + 2] = args.window;
      u32[at + 3] = args.keepFirst;
      u32[at + 4] = args.queryStride;
      u32[at + 5] = args.queryOffset;
      u32[at + 6] = args.rotaryHalf;
      u32[at + 7] = args.tableStride;
      f32[at + 8] = args.keyScale;
      f32[at + 9] = args.valueScale;
      u32[at + 10] = args.alibi;
      u32[at + 11] = args.sinks;
      u32[at + 12] = args.logSumExp;
    },
    constants: '1.0, 0.0, 0u, 0u, 8u, 0u, 0u, 1u, 1.0, 1.0, 0u, 0u, 0u',
    destroy,
  };
}

const trivialKernel = defineKernel({
  name: 'trivial',
  source: [
    `struct Arguments { place: u32, factor: f32, count: u32 }
    @group(0) @binding(0) var<storage, read> a: array<f32>;
    @group(0) @binding(1) var<storage, read> b: array<f32>;
    @group(0) @binding(2) var<storage, read> c: array<f32>;
    @group(0) @binding(3) var<storage, read> d: array<f32>;
    @group(0) @binding(4) var<storage, read> e: array<f32>;
    @group(0) @binding(5) var<storage, read_write> output: array<f32>;
    @compute @workgroup_size(1) fn main() {
      let i = args.place % args.count;
      output[i] = args.factor * (a[i] + b[i] + c[i] + d[i] + e[i]);
    }`,
  ],
  arguments: {
    ...{ a: readBuffer, b: readBuffer, c: readBuffer, d: readBuffer, e: readBuffer, output: writeBuffer },
    ...{ place: perCall('u32'), factor: perCall('f32'), count: perCall('u32') },
  },
  workgroups: { x: () => 1 },
  singleVariant: true,
});

/** Six buffers and one sum. */
export function trivialSubject(device: GPUDevice): Subject<typeof trivialKernel.arguments> {
  const { buffer, destroy } = owner(device);
  const small = () => buffer(256);
  const layers = Array.from({ length: numLayers }, () => ({
    ...{ a: small(), b: small(), c: small(), d: small(), e: small(), output: small() },
    ...{ place: 0, factor: 1, count: 64 },
  }));
  return {
    name: 'trivial',
    kernel: trivialKernel,
    layers,
    vary(args, n) {
      args.place = n % 1024;
      args.factor = 1 / (2 + (n % 1024));
    },
    pack({ f32, u32 }, at, args) {
      u32[at] = args.place;
      f32[at + 1] = args.factor;
      u32[at + 2] = args.count;
    },
    constants: '0u, 1.0, 64u',
    destroy,
  };
}
