/** Random bits that the GPU writes and the reference makes again, one word at a time: a pool of gigabytes is never on the host. */
import { defineKernel, type Gpu, type KvCache, type KvDtype, LaunchCache, perCall, writeBuffer } from 'pagewise';
import { blockBytes, hasTokenScales, kvFormats, rowBytes } from '../../src/attention/layout.ts';
import { e4m3Code } from '../../test/gpu/formats.ts';

const hashWgsl = `
fn hash(seed: u32) -> u32 { // pcg (Jarzynski and Olano 2020)
  let state = seed * 747796405u + 2891336453u;
  let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
  return (word >> 22u) ^ word;
}
// A sum of four bytes: nearly normal, deviation 1.15, and exact in 16 bits.
fn normal(seed: u32) -> f32 {
  let h = hash(seed);
  return (f32(h & 255u) + f32((h >> 8u) & 255u) + f32((h >> 16u) & 255u) + f32(h >> 24u) - 510.0) / 128.0;
}
// The highest bit of an exponent is bit 13 of a half, or bit 6 xor bit 12.
fn smallE4m3(word: u32) -> u32 {
  return (word & 0xdfbfdfbfu) | ((word >> 6u) & 0x00400040u);
}`;

function hash(seed: number): number {
  const state = (Math.imul(seed, 747796405) + 2891336453) >>> 0;
  const word = Math.imul((state >>> ((state >>> 28) + 4)) ^ state, 277803737) >>> 0;
  return ((word >>> 22) ^ word) >>> 0;
}

/** The f32 that the GPU's `normal` gives. */
export function hashedNormal(seed: number): number {
  const h = hash(seed);
  return ((h & 255) + ((h >>> 8) & 255) + ((h >>> 16) & 255) + (h >>> 24) - 510) / 128;
}

/** What words of a pool hold. `fp8` codes have a magnitude below 2. */
const wordOf: Readonly<Record<KvDtype, string>> = {
  f32: 'bitcast<u32>(normal(at))',
  f16: 'pack2x16float(vec2f(normal(2u * at), normal(2u * at + 1u)))',
  int8: 'hash(at)',
  fp8_e4m3: 'smallE4m3(hash(at))',
  fp8_e5m2: '(hash(at) & 0xbfbfbfbfu)',
};

/** Code `i` of four, a byte, of the word that is stored for so many random bits. */
function codeOf(dtype: KvDtype, bits: number, i: number): number {
  if (dtype !== 'fp8_e4m3') return (bits >>> (8 * i)) & (dtype === 'int8' ? 0xff : 0xbf);
  return e4m3Code((bits & 0xdfbfdfbf) | ((bits >>> 6) & 0x00400040), i);
}

/** What a code stands for without a scale. */
function decodeByte(dtype: KvDtype, byte: number): number {
  if (dtype === 'int8') return (byte << 24) >> 24;
  const mantissaBits = dtype === 'fp8_e4m3' ? 3 : 2;
  const bias = dtype === 'fp8_e4m3' ? 7 : 15;
  const exponent = (byte & 127) >> mantissaBits;
  const mantissa = (byte & ((1 << mantissaBits) - 1)) / (1 << mantissaBits);
  const magnitude = exponent === 0 ? mantissa * 2 ** (1 - bias) : (1 + mantissa) * 2 ** (exponent - bias);
  return byte > 127 ? -magnitude : magnitude;
}

const fillKernel = defineKernel({
  name: 'fill',
  source: [
    `struct Arguments { length: u32, seed: u32, blockWords: u32, dataWords: u32, scaleUnit: f32 }
    @group(0) @binding(0) var<storage, read_write> words: array<u32>;`,
    hashWgsl,
    `@compute @workgroup_size(256) fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
      for (var i = id.x; i < args.length; i += grid.x * 256u) {
        let at = i + args.seed;
        var word = contents(at);
        if (i % args.blockWords >= args.dataWords) {
          word = bitcast<u32>(args.scaleUnit * f32(1u + hash(at) % 4u));
        }
        words[i] = word;
      }
    }`,
  ],
  prelude: ({ contents }) => `fn contents(at: u32) -> u32 { return ${contents}; }`,
  arguments: {
    ...{ contents: { class: 'key', type: 'text' }, words: writeBuffer },
    ...{ length: perCall('u32'), seed: perCall('u32'), blockWords: perCall('u32'), dataWords: perCall('u32'), scaleUnit: perCall('f32') },
  },
  workgroups: { x: () => 4096 },
});

type Fill = { readonly buffer: GPUBuffer; readonly contents: string; readonly seed: number } & Partial<
  Record<'blockWords' | 'dataWords' | 'scaleUnit', number>
>;

async function fill(gpu: Gpu, fills: readonly Fill[]): Promise<void> {
  const cache = new LaunchCache(gpu);
  for (const { buffer, contents, seed, blockWords = 1, dataWords = 1, scaleUnit = 1 } of fills) {
    const args = { words: buffer, contents, length: buffer.size / 4, seed, blockWords, dataWords, scaleUnit };
    const site = await cache.prepare(fillKernel, args);
    const encoder = gpu.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    site.record(pass, args);
    pass.end();
    cache.submit([encoder.finish()]);
  }
  await gpu.device.queue.onSubmittedWorkDone();
  cache.destroy();
}

/** Fills a buffer of f32 with `hashedNormal(seed + index)`. */
export function fillNormals(gpu: Gpu, buffer: GPUBuffer, seed: number): Promise<void> {
  return fill(gpu, [{ buffer, contents: wordOf.f32, seed }]);
}

/** How a buffer of 16-bit weights is filled: f16, or the upper halves of f32. */
const halfWords = {
  f16: wordOf.f16,
  bf16: '((bitcast<u32>(normal(2u * at)) >> 16u) | (bitcast<u32>(normal(2u * at + 1u)) & 0xffff0000u))',
} as const;

/** Fills a buffer of 16-bit values; the n-th of them is `hashedHalf(dtype, 2 * seed + n)`. */
export function fillHalves(gpu: Gpu, buffer: GPUBuffer, seed: number, dtype: keyof typeof halfWords): Promise<void> {
  return fill(gpu, [{ buffer, contents: halfWords[dtype], seed }]);
}

const floats = new Float32Array(1);
const floatBits = new Uint32Array(floats.buffer);

/** @param seed u32 */
export function hashedHalf(dtype: keyof typeof halfWords, seed: number): number {
  floats[0] = hashedNormal(seed);
  if (dtype === 'bf16') floatBits[0] &= 0xffff0000;
  return floats[0];
}

/** Smallest scale of the rows: values stay of the order of one. */
const scaleUnits: Readonly<Record<KvDtype, number>> = { f32: 1, f16: 1, int8: 1 / 128, fp8_e4m3: 0.5, fp8_e5m2: 0.5 };

/** Keys and values of every slot of a cache, as they are stored and as the reference reads them. */
export class HashedPool {
  readonly #kv: KvCache;

  static async fill(gpu: Gpu, kv: KvCache): Promise<HashedPool> {
    const { options } = kv;
    const blockWords = blockBytes(options) / 4;
    const dataWords = hasTokenScales(options) ? blockWords - 2 * options.blockSize * options.numKvHeads : blockWords;
    const one = { contents: wordOf[options.dtype], blockWords, dataWords, scaleUnit: scaleUnits[options.dtype] };
    await fill(
      gpu,
      kv.pools.flatMap((buffers, layer) => buffers.map((buffer, i) => ({ ...one, buffer, seed: seedOf(layer, i) }))),
    );
    return new HashedPool(kv);
  }

  private constructor(kv: KvCache) {
    this.#kv = kv;
  }

  /** f64 [headDim]: the key (0) or value (1) of one token and head. */
  row(layer: number, slot: number, head: number, isValue: 0 | 1): Float64Array {
    const { options, blocksPerBuffer } = this.#kv;
    const { blockSize, numKvHeads, headDim, dtype } = options;
    const [block, inBlock] = [Math.floor(slot / blockSize), slot % blockSize];
    const rowWords = rowBytes(options) / 4;
    const rows = blockSize * numKvHeads; // of keys, and as many of values
    const row = head * blockSize + inBlock;
    const blockAt = (block % blocksPerBuffer) * (blockBytes(options) / 4) + seedOf(layer, Math.floor(block / blocksPerBuffer));
    const at = blockAt + (isValue * rows + row) * rowWords;
    const values = new Float64Array(headDim);
    const bytes = kvFormats[dtype].bytes;
    if (bytes === 4) return values.map((_, d) => hashedNormal(at + d));
    if (bytes === 2) return values.map((_, d) => hashedNormal(2 * at + d));
    const scale = scaleUnits[dtype] * (hasTokenScales(options) ? 1 + (hash(blockAt + 2 * rows * rowWords + 2 * row + isValue) % 4) : 1);
    return values.map((_, d) => scale * decodeByte(dtype, codeOf(dtype, hash(at + (d >> 2)), d & 3)));
  }
}

function seedOf(layer: number, buffer: number): number {
  return layer * 77_777_777 + buffer * 7_777_777;
}
