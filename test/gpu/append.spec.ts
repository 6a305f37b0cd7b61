/** The scatter of keys and values into the pool, with a plan written by hand. */
import { appendKernel } from '../../src/attention/kernels.ts';
import { kvFormats } from '../../src/attention/layout.ts';
import { PlanWriter } from '../../src/attention/plan.ts';
import { type KvDtype, LaunchCache } from '../../src/index.ts';
import { emptyBuffer, expect, expectEqual, random, readBuffer, type SpecContext, spec, uploadBuffer } from '../harness/harness.ts';
import { decodeHalf, encodeHalf } from './formats.ts';
import { submit } from './tiny.ts';

interface AppendCase {
  readonly dtype: KvDtype;
  readonly blockSize: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly numBlocks: number;
  /** -1: padding. */
  readonly slots: readonly number[];
  readonly positions: readonly number[];
  /** Where a token's keys and values are. Both may lie in one buffer. */
  readonly source: {
    readonly key: Float32Array<ArrayBuffer>;
    readonly value?: Float32Array<ArrayBuffer>;
    readonly rowStride: number;
    readonly keyOffset: number;
    readonly valueOffset: number;
  };
  readonly rotary?: { readonly table: Float32Array<ArrayBuffer>; readonly half: number };
}

type Codes = Uint32Array<ArrayBuffer> | Uint16Array<ArrayBuffer>;

/** Appends into a pool of NaN bits and returns its codes: of 32 or 16 bits, as the storage has them. */
async function append(t: SpecContext, testCase: AppendCase): Promise<Codes> {
  const { dtype, blockSize, numKvHeads, headDim, numBlocks, slots, positions, source, rotary } = testCase;
  const cache = new LaunchCache(t.gpu);
  t.defer(() => cache.destroy());
  const writer = new PlanWriter(64 + 2 * slots.length);
  writer.begin();
  writer.count('NUM_TOKENS', slots.length);
  writer.section('SLOT_MAPPING', slots.length).u32.set(slots);
  writer.section('POSITIONS', slots.length).u32.set(positions);
  const key = uploadBuffer(t, source.key);
  const poolBytes = numBlocks * 2 * blockSize * numKvHeads * headDim * (dtype === 'f32' ? 4 : 2);
  const args = {
    blockSize,
    numKvHeads,
    headDim,
    kvDtype: kvFormats[dtype].code,
    tokenScales: 'false',
    loadWords: 4,
    blocksPerBuffer: numBlocks,
    key,
    value: source.value ? uploadBuffer(t, source.value) : key,
    plan: uploadBuffer(t, writer.words),
    rotary: rotary ? uploadBuffer(t, rotary.table) : emptyBuffer(t, 16),
    pool0: uploadBuffer(t, new Uint8Array(poolBytes).fill(0xff)),
    rowStride: source.rowStride,
    keyOffset: source.keyOffset,
    valueOffset: source.valueOffset,
    rotaryHalf: rotary?.half ?? 0,
    keyScale: 1,
    valueScale: 1,
    numTokens: slots.length,
  };
  const site = await cache.prepare(appendKernel, args);
  submit(cache, (pass) => site.record(pass, args));
  const pool = await readBuffer(t.gpu, args.pool0);
  return dtype === 'f32' ? new Uint32Array(pool) : new Uint16Array(pool);
}

/** The pool as it should be, in values; NaN where nothing was written. */
function expectedPool({ blockSize, numKvHeads, headDim, numBlocks, slots, positions, source, rotary }: AppendCase): Float64Array {
  const pool = new Float64Array(numBlocks * 2 * blockSize * numKvHeads * headDim).fill(Number.NaN);
  const valueSource = source.value ?? source.key;
  slots.forEach((slot, token) => {
    if (slot < 0) return;
    const block = Math.floor(slot / blockSize);
    for (let head = 0; head < numKvHeads; head++) {
      const keyRow = ((block * 2 * numKvHeads + head) * blockSize + (slot % blockSize)) * headDim;
      const valueRow = keyRow + blockSize * numKvHeads * headDim;
      const at = token * source.rowStride + head * headDim;
      for (let d = 0; d < headDim; d++) {
        pool[keyRow + d] = source.key[at + source.keyOffset + d];
        pool[valueRow + d] = valueSource[at + source.valueOffset + d];
      }
      for (let d = 0; rotary && d < rotary.half; d++) {
        const [a, b] = [pool[keyRow + d], pool[keyRow + d + rotary.half]];
        const angle = 2 * (positions[token] * rotary.half + d);
        const [cos, sin] = rotary.table.subarray(angle, angle + 2);
        pool[keyRow + d] = a * cos - b * sin;
        pool[keyRow + d + rotary.half] = b * cos + a * sin;
      }
    }
  });
  return pool;
}

/** Holds every word of the pool against the expected values; returns how many were written. */
function compare(pool: Codes, expected: Float64Array, exact: (index: number) => boolean): number {
  const half = pool instanceof Uint16Array;
  const floats = half ? Float32Array.from(pool, decodeHalf) : new Float32Array(pool.buffer);
  const untouched = half ? 0xffff : 0xffffffff;
  let written = 0;
  expectEqual(pool.length, expected.length, 'values of the pool');
  for (let i = 0; i < expected.length; i++) {
    if (Number.isNaN(expected[i])) {
      expect(pool[i] === untouched, `value ${i} was written: ${floats[i]}`);
      continue;
    }
    written++;
    const wanted = half ? decodeHalf(encodeHalf(expected[i])) : Math.fround(expected[i]);
    const step = Math.max(Math.abs(expected[i]) * (half ? 2 ** -10 : 2 ** -21), half ? 2 ** -24 : 2 ** -22);
    const right = exact(i) ? floats[i] === wanted : Math.abs(floats[i] - expected[i]) <= step;
    expect(right, `value ${i} is ${floats[i]}, expected ${wanted}`);
  }
  return written;
}

const everything = () => true;

function randomCase(dtype: KvDtype, seed: number, change: Partial<AppendCase> = {}): AppendCase {
  const numbers = random(seed);
  const layout = { blockSize: 8, numKvHeads: 2, headDim: 24, numBlocks: 7, ...change };
  const rowSize = layout.numKvHeads * layout.headDim;
  const tokens = 20;
  const slots = numbers.permutation(layout.numBlocks * layout.blockSize).slice(0, tokens);
  for (const padding of [0, 6, 7, 19]) slots[padding] = -1;
  return {
    dtype,
    ...layout,
    slots,
    positions: Array.from({ length: tokens }, () => numbers.integer(30)),
    source: {
      key: numbers.normals(tokens * rowSize),
      value: numbers.normals(tokens * rowSize),
      rowStride: rowSize,
      keyOffset: 0,
      valueOffset: 0,
    },
    ...change,
  };
}

for (const dtype of ['f32', 'f16'] as const) {
  spec(`${dtype}: each row in its slot, padding skipped, all else untouched`, async (t) => {
    const layouts = [{}, { blockSize: 16, headDim: 8, numKvHeads: 1 }, { blockSize: 24, headDim: 136, numKvHeads: 3, numBlocks: 3 }];
    for (const [seed, layout] of layouts.entries()) {
      const testCase = randomCase(dtype, seed + 1, layout);
      const written = compare(await append(t, testCase), expectedPool(testCase), everything);
      expectEqual(written, 16 * 2 * testCase.numKvHeads * testCase.headDim, 'values written');
    }
  });

  spec(`${dtype}: keys and values packed with queries in one buffer`, async (t) => {
    const numbers = random(11);
    const base = randomCase(dtype, 12);
    const rowStride = 5 * 24 + 2 * 2 * 24 + 7;
    const packed = numbers.normals(20 * rowStride);
    const source = { key: packed, rowStride, keyOffset: 5 * 24, valueOffset: 5 * 24 + 2 * 24 + 7 };
    const testCase = { ...base, source };
    compare(await append(t, testCase), expectedPool(testCase), everything);
  });

  spec(`${dtype}: rotary turns the first 2 * half dimensions of the keys, and nothing else`, async (t) => {
    for (const half of [12, 8, 4, 1]) {
      const numbers = random(half);
      const angles = Array.from({ length: 30 * half }, () => numbers.uniform() * 7);
      const table = Float32Array.from(angles.flatMap((angle) => [Math.cos(angle), Math.sin(angle)]));
      const testCase = randomCase(dtype, 20 + half, { rotary: { table, half } });
      const isValue = (index: number) => Math.floor(index / (8 * 2 * 24)) % 2 === 1;
      const exact = (index: number) => isValue(index) || index % 24 >= 2 * half;
      compare(await append(t, testCase), expectedPool(testCase), exact);
    }
  });
}

spec('f16: rounds to the nearest, also where halves are subnormal', async (t) => {
  const values: number[] = [];
  for (let code = 0; code < 0x7bff; code += 37) {
    const [low, high] = [decodeHalf(code), decodeHalf(code + 1)];
    for (const part of [0, 0.25, 0.5, 0.75]) values.push(low + part * (high - low), -(low + part * (high - low)));
  }
  const headDim = 256;
  const tokens = Math.ceil(values.length / headDim);
  const key = new Float32Array(tokens * headDim);
  key.set(values);
  const testCase: AppendCase = {
    dtype: 'f16',
    blockSize: 32,
    numKvHeads: 1,
    headDim,
    numBlocks: 1,
    slots: Array.from({ length: tokens }, (_, i) => i),
    positions: Array(tokens).fill(0),
    source: { key, rowStride: headDim, keyOffset: 0, valueOffset: 0 },
  };
  expect(tokens <= 32, `${tokens} tokens do not fit into the block`);
  compare(await append(t, testCase), expectedPool(testCase), everything);
});

spec(
  'more work than one dimension of the grid has workgroups for',
  async (t) => {
    const tokens = 4097;
    const key = random(3).normals(8 * 256);
    const slots = Array<number>(tokens).fill(-1);
    slots[0] = 5;
    slots[4095] = 1;
    slots[4096] = 14;
    const testCase: AppendCase = {
      dtype: 'f16',
      blockSize: 8,
      numKvHeads: 8,
      headDim: 256,
      numBlocks: 2,
      slots,
      positions: Array(tokens).fill(0),
      source: { key, rowStride: 0, keyOffset: 0, valueOffset: 0 },
    };
    expectEqual(compare(await append(t, testCase), expectedPool(testCase), everything), 3 * 2 * 8 * 256, 'values written');
  },
  { devices: 'default' },
);
