/** What it saves that the append kernel turns the keys, too: one launch against a launch that turns them and one that appends. */
import { defineKernel, type Gpu, KvCache, type KvDtype, LaunchCache, PagedAttention, perCall, readBuffer, writeBuffer } from 'pagewise';
import { type BenchRow, rowOf } from '../report.ts';
import { type PassTimer, passTimer, sampleWarm } from '../timestamps.ts';
import type { Shape } from './case.ts';
import { fillNormals } from './hash.ts';

export interface AppendCase {
  /** Sequences that get so many tokens each. */
  readonly batch: number;
  readonly tokens: number;
  readonly dtype: KvDtype;
}

const turnKernel = defineKernel({
  name: 'turn keys',
  source: [
    `struct Arguments { length: u32, half: u32, heads: u32, tokensPerSequence: u32 }
    @group(0) @binding(0) var<storage, read> key: array<f32>;
    @group(0) @binding(1) var<storage, read> rotary: array<vec2f>;
    @group(0) @binding(2) var<storage, read_write> turned: array<f32>;
    @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
      for (var i = id.x; i < args.length; i += grid.x * 64u) {
        let d = i % args.half;
        let row = i / args.half;
        let turn = rotary[row / args.heads % args.tokensPerSequence * args.half + d];
        let at = row * 2u * args.half + d;
        let low = key[at];
        let high = key[at + args.half];
        turned[at] = low * turn.x - high * turn.y;
        turned[at + args.half] = high * turn.x + low * turn.y;
      }
    }`,
  ],
  arguments: {
    ...{ key: readBuffer, rotary: readBuffer, turned: writeBuffer },
    ...{ length: perCall('u32'), half: perCall('u32'), heads: perCall('u32'), tokensPerSequence: perCall('u32') },
  },
  workgroups: { x: ({ length }) => Math.min(65_535, Math.ceil(length / 64)) },
  singleVariant: true,
});

/** @throws {Error} unless both ways leave the same pool */
export async function measureAppend(gpu: Gpu, shape: Shape, one: AppendCase, rounds: number, quick: boolean): Promise<readonly BenchRow[]> {
  const { batch, tokens, dtype } = one;
  const { numHeads, numKvHeads, headDim, blockSize } = shape;
  const { device } = gpu;
  const cache = new LaunchCache(gpu);
  const blocks = Math.ceil(tokens / blockSize);
  const kv = new KvCache(gpu, {
    ...{ blockSize, numKvHeads, headDim, dtype, numLayers: 2, numBlocks: batch * blocks + 1 },
    ...{ maxSequences: batch, maxBlocksPerSequence: blocks },
  });
  const numTokens = batch * tokens;
  const attention = new PagedAttention(cache, kv, { numHeads, maxTokensPerStep: numTokens });
  const buffer = (words: number) =>
    device.createBuffer({ size: words * 4, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST });
  const rowWords = numKvHeads * headDim;
  const [key, value, turned] = [0, 1, 2].map(() => buffer(numTokens * rowWords));
  const [query, output] = [0, 1].map(() => buffer(numTokens * numHeads * headDim));
  const half = headDim / 2;
  const table = buffer(tokens * headDim);
  const timer = passTimer(gpu);
  try {
    await Promise.all([key, value, table].map((of, i) => fillNormals(gpu, of, 1000 * i)));
    await attention.prepare();
    const fused = await attention.prepareLayer(0, { query, output, key, value, rotary: { table, half } });
    const plain = await attention.prepareLayer(1, { query, output, key: turned, value });
    const turnArgs = {
      key,
      rotary: table,
      turned,
      length: numTokens * numKvHeads * half,
      half,
      heads: numKvHeads,
      tokensPerSequence: tokens,
    };
    const turn = await cache.prepare(turnKernel, turnArgs);
    attention.plan(
      Array.from({ length: batch }, () => {
        const sequence = kv.open();
        kv.extend(sequence, tokens);
        return { sequence, queryLen: tokens };
      }),
    );
    attention.write();
    const submit = (commands: GPUCommandBuffer) => cache.submit([commands]);
    const ways: readonly (readonly [string, RecordLaunches])[] = [
      ['one launch', (pass) => fused.append(pass)],
      [
        'two launches',
        (pass) => {
          turn.record(pass, turnArgs);
          plain.append(pass);
        },
      ],
    ];
    await checkSame(
      gpu,
      kv,
      ways.map(([, record]) => record),
      submit,
    );
    const rows: BenchRow[] = [];
    for (const [name, record] of ways) {
      const count = quick ? 1 : Math.max(2, Math.min(200, Math.ceil(100_000 / numTokens)));
      const times = await sampleWarm(rounds, gpu.adapter.software || quick, (times) => timeMany(timer, record, submit, times * count));
      rows.push(rowOf(`append, ${name}`, { case: `${batch} x ${tokens}`, kv: dtype }, 'us', times));
    }
    return rows;
  } finally {
    timer.destroy();
    attention.destroy();
    cache.destroy();
    kv.destroy();
    for (const one of [key, value, turned, query, output, table]) one.destroy();
  }
}

type RecordLaunches = (pass: GPUComputePassEncoder) => void;
type Submit = (commands: GPUCommandBuffer) => void;

/** @returns microseconds for each of `count` times */
async function timeMany(timer: PassTimer, record: RecordLaunches, submit: Submit, count: number): Promise<number> {
  const repeated: RecordLaunches = (pass) => {
    for (let i = 0; i < count; i++) record(pass);
  };
  return (1000 * (await timer.time(repeated, submit))) / count;
}

async function checkSame(gpu: Gpu, kv: KvCache, ways: readonly RecordLaunches[], submit: Submit): Promise<void> {
  const encoder = gpu.device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  for (const record of ways) record(pass);
  pass.end();
  const [[one], [two]] = kv.pools;
  const staging = [one, two].map((pool) => {
    const to = gpu.device.createBuffer({ size: pool.size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
    encoder.copyBufferToBuffer(pool, 0, to, 0, pool.size);
    return to;
  });
  submit(encoder.finish());
  await Promise.all(staging.map((of) => of.mapAsync(GPUMapMode.READ)));
  const [a, b] = staging.map((of) => new Uint8Array(of.getMappedRange()));
  // A compiler may fuse a multiplication and an addition in one kernel and not in the other: a last bit may differ.
  const differing = a.reduce((count, byte, i) => count + (Math.abs(byte - b[i]) > 1 ? 1 : 0), 0);
  for (const of of staging) of.destroy();
  if (differing > a.length / 1000) throw new Error(`Appending in one launch and in two differ in ${differing} of ${a.length} bytes.`);
}
