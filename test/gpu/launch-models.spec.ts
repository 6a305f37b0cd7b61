/** The launch cache under whole models: two in one page, and a thousand steps of one. */
import { parseModelConfig } from '../../src/engine/config.ts';
import { filesFrom } from '../../src/engine/files.ts';
import type { Engine } from '../../src/engine/index.ts';
import { LlamaModel } from '../../src/engine/model.ts';
import { openSafetensors } from '../../src/engine/safetensors.ts';
import { loadWeights } from '../../src/engine/weights.ts';
import { type Gpu, KvCache, LaunchCache, type LaunchCacheMode, type LaunchEvent, type Sequence } from '../../src/index.ts';
import { emptyBuffer, expect, expectEqual, random, readBuffer, type SpecContext, spec } from '../harness/harness.ts';
import { countObjects, type ObjectCounts } from './observe.ts';
import { loadEngine, readJson } from './shipped.ts';

const fixture = 'test/golden/fixtures/llama';

spec(
  'two models in one page, interleaved, write what each writes alone',
  async (t) => {
    const { ids: prompts } = await readJson<{ ids: number[][] }>(t, `${fixture}/golden.json`);
    const engines = [await loadEngine(t, { runAhead: 2 }), await loadEngine(t, { runAhead: 2 }, fixture)];
    const requests: readonly (readonly [Engine, string | readonly number[], object])[] = [
      [engines[0], 'Once upon a time', { temperature: 0, maxTokens: 24 }],
      [engines[1], prompts[0], { temperature: 0, maxTokens: 24 }],
      [engines[0], 'The little dog', { temperature: 0.9, topK: 50, seed: 3, maxTokens: 24 }],
      [engines[1], prompts[1], { temperature: 0.9, topP: 0.95, seed: 4, maxTokens: 24 }],
    ];
    const alone: number[][] = [];
    for (const [engine, prompt, options] of requests) alone.push([...(await engine.generate(prompt, options).result).ids]);
    const order: Engine[] = [];
    const together = await Promise.all(
      requests.map(async ([engine, prompt, options]) => {
        const generation = engine.generate(prompt, options);
        for await (const _ of generation) order.push(engine);
        return [...(await generation.result).ids];
      }),
    );
    expectEqual(together, alone, 'ids');
    const turns = order.filter((engine, i) => i > 0 && engine !== order[i - 1]).length;
    expect(turns >= 8, `the engines took turns ${turns} times in ${order.length} chunks`);
    for (const engine of engines) {
      const { misses, falseHits, uncached } = engine.launchStats();
      expectEqual([misses, falseHits, uncached], [0, 0, 0], 'misses, false hits, uncached launches');
    }
  },
  { devices: 'granted', timeout: 300_000 },
);

const maxSequences = 4;
const maxLength = 160;
const blockSize = 8;

/** The fixture's first two layers, for up to four sequences. */
async function openModel(t: SpecContext, gpu: Gpu, mode: LaunchCacheMode) {
  const events: LaunchEvent[] = [];
  const files = filesFrom(fixture, (name) => t.readFile(`${fixture}/${name}`).catch(() => undefined));
  const config = parseModelConfig({ ...(await readJson<object>(t, `${fixture}/config.json`)), num_hidden_layers: 2 });
  const tensors = await openSafetensors(files);
  const weights = await loadWeights(gpu, tensors, config, () => {});
  t.defer(() => weights.destroy());
  tensors.close();
  const maxBlocksPerSequence = maxLength / blockSize;
  const { numLayers, numKvHeads, headDim } = config;
  const layout = { numLayers, numKvHeads, headDim, blockSize, dtype: 'f32' } as const;
  const kv = new KvCache(gpu, { ...layout, numBlocks: maxSequences * maxBlocksPerSequence + 1, maxSequences, maxBlocksPerSequence });
  t.defer(() => kv.destroy());
  const cache = await LaunchCache.open(gpu, { mode, onEvent: (event) => events.push(event) });
  t.defer(() => cache.destroy());
  const model = await LlamaModel.create(cache, kv, config, weights, { maxTokensPerStep: 64, maxLogitRows: maxSequences });
  t.defer(() => model.destroy());
  cache.freeze();
  return { kv, cache, model, config, events };
}

interface Growing {
  readonly sequence: Sequence;
  /** Tokens not yet run; empty: the one sampled last, on the GPU. */
  prompt: number[];
  sampled: boolean;
  readonly until: number;
}

/** Steps in which sequences come, grow by a token, and go; returns what was sampled in each. */
async function runSteps(t: SpecContext, gpu: Gpu, counts: ObjectCounts, mode: LaunchCacheMode, steps: number): Promise<Uint32Array> {
  const { kv, cache, model, config, events } = await openModel(t, gpu, mode);
  const rowBytes = model.sampled.size;
  const log = emptyBuffer(t, steps * rowBytes, GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST, gpu);
  const numbers = random(2024);
  const greedy = { temperature: 0, topK: 0, topP: 1, seed: 0, stopTokens: [] };
  let running: Growing[] = [];
  const batches = new Set<number>();
  let longest = 0;
  for (const name of Object.keys(counts.created)) delete counts.created[name];
  const before = { ...cache.stats(), writes: counts.writes };
  const start = performance.now();
  for (let step = 0; step < steps; step++) {
    const done = running.filter(({ sequence, until }) => sequence.length >= until);
    running = running.filter((one) => !done.includes(one));
    for (const { sequence } of done) kv.close(sequence);
    if (running.length === 0 || (running.length < maxSequences && numbers.uniform() < 0.05)) {
      const prompt = Array.from({ length: 1 + numbers.integer(12) }, () => 3 + numbers.integer(config.vocabSize - 3));
      running.push({
        sequence: kv.open(),
        prompt,
        sampled: false,
        until: prompt.length + 1 + numbers.integer(maxLength - prompt.length - 1),
      });
    }
    const entries = running.map((one) => {
      const { sequence, prompt, sampled } = one;
      const queryLen = Math.max(1, prompt.length);
      kv.extend(sequence, queryLen);
      one.prompt = [];
      one.sampled = true;
      return { sequence, queryLen, sample: greedy, first: !sampled, ...(prompt.length > 0 && { tokens: prompt }) };
    });
    batches.add(entries.length);
    longest = Math.max(longest, ...running.map(({ sequence }) => sequence.length));
    const writes = counts.writes;
    model.plan(entries);
    const encoder = gpu.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    model.record(pass);
    pass.end();
    encoder.copyBufferToBuffer(model.sampled, 0, log, step * rowBytes, rowBytes);
    cache.submit([encoder.finish()]);
    expect(counts.writes - writes <= 2, `${counts.writes - writes} writes in step ${step}`);
    if (step % 32 === 31) await gpu.device.queue.onSubmittedWorkDone();
  }
  expectEqual(counts.created, {}, `objects created in ${steps} steps`);
  const { launches, hits, ...rest } = cache.stats();
  const made = launches - before.launches;
  expect(made >= 15 * steps, `${made} launches in ${steps} steps`);
  expectEqual(hits - before.hits, made, 'hits');
  for (const name of ['misses', 'pipelines', 'bindGroups', 'falseHits', 'uncached', 'evictions'] as const)
    expectEqual(rest[name] - before[name], 0, name);
  expectEqual(events, [], 'events');
  expectEqual([...batches].sort(), [1, 2, 3, 4], 'sizes of batches');
  expect(longest > 100, `the longest sequence has ${longest} tokens`);
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  t.log(`mode ${mode}: ${steps} steps in ${seconds} s, ${made} launches, ${counts.writes - before.writes} writes, longest ${longest}`);
  return new Uint32Array(await readBuffer(gpu, log));
}

spec(
  'after freeze(), 1,000 steps of a changing batch make no object, write at most twice each and hit always',
  async (t) => {
    const { gpu } = t;
    const counts = countObjects(t, gpu);
    const on = await runSteps(t, gpu, counts, 'on', 1000);
    expect(new Set(on).size > 20, `${new Set(on).size} different values were sampled`);
    expectEqual(await runSteps(t, gpu, counts, 'verify', 1000), on, 'tokens sampled in mode verify');
  },
  { devices: 'granted', timeout: 300_000 },
);
