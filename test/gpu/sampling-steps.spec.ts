/** Sampling in a model's steps: counts that the GPU keeps while steps are in flight, drafts to verify, and what is refused. */
import { parseModelConfig } from '../../src/engine/config.ts';
import { filesFrom } from '../../src/engine/files.ts';
import { LlamaModel, type ModelOptions, type StepEntry } from '../../src/engine/model.ts';
import { ReadbackRing, type SampledToken } from '../../src/engine/readback.ts';
import { openSafetensors } from '../../src/engine/safetensors.ts';
import type { SamplingParameters } from '../../src/engine/sampling.ts';
import { loadWeights } from '../../src/engine/weights.ts';
import { CapacityExceededError, type Gpu, InvalidArgumentError, KvCache, LaunchCache, LimitExceededError } from '../../src/index.ts';
import { emptyBuffer, expect, expectClose, expectEqual, expectThrows, readFloats, type SpecContext, spec } from '../harness/harness.ts';
import { countObjects } from './observe.ts';
import { adjust } from './sample-case.ts';
import { readJson } from './shipped.ts';

const fixture = 'test/golden/fixtures/llama';
const vocabSize = 320;
const maxRows = 6;
const ringDepth = 32;

const greedy: SamplingParameters = { temperature: 0, topK: 0, topP: 1, seed: 0, stopTokens: [] };
const penalties = { repetitionPenalty: 1.4, presencePenalty: 0.3, frequencyPenalty: 0.5 };
const promptOf = (length: number, seed: number) => Array.from({ length }, (_, i) => 3 + ((i * 37 + seed * 101) % (vocabSize - 3)));

/** The fixture's first two layers, and room for three sequences. */
async function openParts(t: SpecContext, gpu: Gpu) {
  const files = filesFrom(fixture, (name) => t.readFile(`${fixture}/${name}`).catch(() => undefined));
  const config = parseModelConfig({ ...(await readJson<object>(t, `${fixture}/config.json`)), num_hidden_layers: 2 });
  const tensors = await openSafetensors(files);
  const weights = await loadWeights(gpu, tensors, config, () => {});
  t.defer(() => weights.destroy());
  tensors.close();
  const { numLayers, numKvHeads, headDim } = config;
  const kv = new KvCache(gpu, {
    ...{ numLayers, numKvHeads, headDim, blockSize: 8, dtype: 'f32' },
    ...{ numBlocks: 49, maxSequences: 3, maxBlocksPerSequence: 16 },
  });
  t.defer(() => kv.destroy());
  const cache = new LaunchCache(gpu);
  t.defer(() => cache.destroy());
  return { kv, cache, config, weights };
}

/** A model, and a step of it. */
async function openModel(t: SpecContext, options: Partial<ModelOptions> = {}, gpu: Gpu = t.gpu) {
  const { kv, cache, config, weights } = await openParts(t, gpu);
  const modelOptions = { maxTokensPerStep: 64, maxLogitRows: maxRows, maxLogprobs: 4, ...options };
  const model = await LlamaModel.create(cache, kv, config, weights, modelOptions);
  t.defer(() => model.destroy());
  cache.freeze();
  const ring = new ReadbackRing(gpu, ringDepth, maxRows, 4);
  t.defer(() => ring.destroy());
  /** Submits a step; `also` records copies behind it. */
  const step = (entries: readonly StepEntry[], also?: (encoder: GPUCommandEncoder) => void): Promise<readonly SampledToken[]> => {
    for (const { sequence, queryLen } of entries) kv.extend(sequence, queryLen);
    model.plan(entries);
    const encoder = gpu.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    model.record(pass);
    pass.end();
    also?.(encoder);
    const read = ring.record(encoder, model.results);
    cache.submit([encoder.finish()]);
    return read();
  };
  return { kv, model, step, cache };
}

spec('the GPU counts what it samples while no token has come back', async (t) => {
  const { kv, model, step } = await openModel(t);
  const steps = 24;
  const prompts = [promptOf(20, 1), promptOf(9, 2), promptOf(14, 3)];
  const sequences = prompts.map(() => kv.open());
  const stepBytes = 3 * vocabSize * 4;
  const log = emptyBuffer(t, steps * stepBytes, GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST);
  const samples: readonly SamplingParameters[] = [
    { ...greedy, ...penalties, logprobs: 2 },
    greedy,
    { ...greedy, ...penalties, repetitionPenalty: 0.9, logitBias: [[7, 3]], banStopTokens: true, stopTokens: [7, 9] },
  ];
  const reads = Array.from({ length: steps }, (_, i) => {
    const entries = sequences.map((sequence, row) => {
      const first = i === 0;
      const history = first && row !== 1 ? { prompt: prompts[row], output: [] } : undefined;
      return {
        sequence,
        queryLen: first ? prompts[row].length : 1,
        sample: samples[row],
        first,
        history,
        tokens: first ? prompts[row] : undefined,
      };
    });
    return step(entries, (encoder) => encoder.copyBufferToBuffer(model.logits, 0, log, i * stepBytes, stepBytes));
  });
  const results = await Promise.all(reads);
  const logits = await readFloats(t.gpu, log);
  const outputs: number[][] = [[], [], []];
  results.forEach((rows, i) => {
    rows.forEach(({ token, logprob }, row) => {
      const own = logits.subarray((3 * i + row) * vocabSize, (3 * i + row + 1) * vocabSize);
      const adjusted = adjust({ ...samples[row], logits: own, prompt: prompts[row], output: outputs[row] });
      expectEqual(token, adjusted.indexOf(adjusted.reduce((a, b) => Math.max(a, b))), `step ${i}, row ${row}`);
      outputs[row].push(token);
      if (row !== 0) return;
      const mass = own.reduce((sum, logit) => sum + Math.exp(logit - own[token]), 0);
      expectClose([logprob as number], [-Math.log(mass)], { atol: 4e-6, rtol: 2e-6, label: `log-probability of step ${i}` });
    });
  });
  const repeated = outputs.map((output) => output.length - new Set(output).size);
  expect(repeated[1] > repeated[0], `repeated tokens without penalties ${repeated[1]}, with ${repeated[0]}`);
});

spec(
  'a sequence that starts again on another row goes on as it would have',
  async (t) => {
    const { kv, step } = await openModel(t);
    const prompt = promptOf(20, 5);
    const sample = { ...greedy, ...penalties, temperature: 0.8, minP: 0.02, seed: 77 };
    const write = async (output: readonly number[], count: number) => {
      const [other, sequence] = [kv.open(), kv.open()];
      const tokens = [...prompt, ...output];
      const reads = Array.from({ length: count }, (_, i) =>
        i === 0
          ? step([{ sequence, queryLen: tokens.length, tokens, sample, first: true, history: { prompt, output } }])
          : step([{ sequence, queryLen: 1, sample }]),
      );
      const rows = await Promise.all(reads);
      kv.close(sequence);
      kv.close(other);
      return rows.map(([{ token }]) => token);
    };
    const whole = await write([], 24);
    kv.open(); // so that the second try has other rows
    expectEqual(await write(whole.slice(0, 11), 13), whole.slice(11));
    expect(new Set(whole).size > 8, `many tokens: ${whole}`);
  },
  { devices: 'default' },
);

spec(
  'a draft is verified at all of its tokens in one step, each with parameters of its own',
  async (t) => {
    const { kv, step } = await openModel(t);
    const prompt = promptOf(20, 6);
    const sample = { ...greedy, temperature: 1.1, topK: 30, seed: 5, logprobs: 1 };
    const [one, draft] = [kv.open(), kv.open()];
    const written: SampledToken[] = [];
    for (let i = 0; i < 8; i++)
      written.push(
        (await step([{ sequence: one, queryLen: i === 0 ? 20 : 1, tokens: i === 0 ? prompt : undefined, sample, first: i === 0 }]))[0],
      );
    const ids = written.map(({ token }) => token);
    const first = await step([{ sequence: draft, queryLen: 20, tokens: prompt, sample, first: true }]);
    expectEqual(first[0].token, ids[0], 'first');
    const allowedTokens = new Uint32Array(vocabSize / 32);
    allowedTokens[4] = 1 << 3;
    const list = [sample, sample, { ...sample, allowedTokens }, sample];
    const verified = await step([
      { sequence: draft, queryLen: 5, tokens: ids.slice(0, 5), sample: list },
      { sequence: one, queryLen: 1, sample },
    ]);
    expectEqual(verified.length, 5, 'rows');
    expectEqual(
      verified.slice(0, 4).map(({ token }) => token),
      [ids[2], ids[3], 131, ids[5]],
    );
    for (const i of [0, 1, 3]) expectClose([verified[i].logprob as number], [written[i + 2].logprob as number], { atol: 1e-4 });
    const [{ token }] = await step([{ sequence: draft, queryLen: 1, sample }]);
    expectEqual(token, ids[6], 'the step after goes on from the last row');
  },
  { devices: 'default' },
);

spec(
  'a step writes and makes nothing more than its rows ask for',
  async (t) => {
    const { gpu } = t;
    const counts = countObjects(t, gpu);
    const { kv, step } = await openModel(t, {}, gpu);
    const [one, two] = [kv.open(), kv.open()];
    const work = async (entries: readonly StepEntry[]) => {
      const { writes, writtenBytes } = counts;
      await step(entries);
      return { writes: counts.writes - writes, bytes: counts.writtenBytes - writtenBytes };
    };
    const prompt = promptOf(2, 1); // so that no step below needs a new block
    const start = { queryLen: 2, tokens: prompt, first: true };
    await work([
      { ...start, sequence: one, sample: greedy },
      { ...start, sequence: two, sample: { ...greedy, ...penalties }, history: { prompt, output: [] } },
    ]);
    const next = (sample: SamplingParameters) =>
      work([one, two].map((sequence, i) => ({ sequence, queryLen: 1, sample: i === 1 ? sample : greedy })));
    for (const name of Object.keys(counts.created)) delete counts.created[name];
    await next(greedy); // the first launch of each kernel writes its arguments
    await next({ ...greedy, logprobs: 0 });
    const plain = await next(greedy);
    expectEqual(plain.writes, 1, 'writes of a plain step');
    const extended = [await next({ ...greedy, ...penalties }), await next({ ...greedy, logitBias: [[5, 1]] })];
    const [zeros, record, pair, resultWords] = [24, 24, 8, 4];
    expectEqual(
      extended.map(({ writes, bytes }) => [writes, bytes - plain.bytes]),
      [
        [3, zeros + record + resultWords], // results are shorter than in the step before
        [2, zeros + record + pair],
      ],
      'writes of steps in which a row asks for more, and their bytes beyond a plain step',
    );
    const again = await next(greedy);
    expectEqual(again, plain, 'a plain step afterwards');
    expectEqual(counts.created, {}, 'objects made');
  },
  { devices: 'granted' },
);

spec(
  'sampling that cannot be done is refused before anything changes',
  async (t) => {
    const { kv, step, model } = await openModel(t);
    const sequence = kv.open();
    const tokens = promptOf(4, 9);
    kv.extend(sequence, 4);
    const refused = (error: abstract new (...args: never[]) => Error, entry: Partial<StepEntry>, message: RegExp) =>
      expectThrows(error, () => model.plan([{ sequence, queryLen: 4, tokens, ...entry }]), message);
    const bad = InvalidArgumentError;
    await refused(bad, { sample: { ...greedy, allowedTokens: new Uint32Array(9).fill(1) } }, /allowedTokens is "9 words".*10 words/);
    await refused(bad, { sample: { ...greedy, allowedTokens: new Uint32Array(10) } }, /allowedTokens is "empty"/);
    await refused(bad, { sample: { ...greedy, stopTokens: Array(129).fill(1) } }, /stopTokens is "129 tokens"/);
    await refused(bad, { sample: { ...greedy, ...penalties }, first: true }, /history is undefined/);
    await refused(bad, { sample: [greedy, { ...greedy, ...penalties }] }, /sample is "several parameters with penalties"/);
    await refused(bad, { sample: Array(5).fill(greedy) }, /sample is "5 parameters".*4 new tokens/);
    await refused(CapacityExceededError, { sample: { ...greedy, logprobs: 5 } }, /5 likeliest tokens.*maxLogprobs/);
    const { model: without } = await openModel(t, { penalties: false });
    await expectThrows(
      bad,
      () =>
        without.plan([{ sequence, queryLen: 4, tokens, sample: { ...greedy, frequencyPenalty: 1 }, history: { prompt: [], output: [] } }]),
      /penalties: false/,
    );
    kv.close(sequence);
    const again = kv.open();
    expectEqual(
      (await step([{ sequence: again, queryLen: 4, tokens, sample: greedy, first: true }])).length,
      1,
      'rows of a step afterwards',
    );
    expectEqual(await step([{ sequence: again, queryLen: 1, tokens: [5] }]), [], 'a step that samples nothing');
  },
  { devices: 'default' },
);

spec(
  'a model that does not fit leaves nothing on the GPU',
  async (t) => {
    const gpu = await t.openGpu();
    const counts = countObjects(t, gpu);
    const { kv, cache, config, weights } = await openParts(t, gpu);
    const before = counts.liveBuffers();
    const maxLogitRows = Math.ceil(gpu.limits.maxStorageBufferBindingSize / (4 * vocabSize)) + 1;
    const options = { maxTokensPerStep: 64, maxLogitRows };
    await expectThrows(LimitExceededError, () => LlamaModel.create(cache, kv, config, weights, options), /"logits".*maxLogitRows/);
    expect((counts.created.createBuffer ?? 0) > before, 'buffers were made');
    expectEqual(counts.liveBuffers(), before, 'buffers alive');
  },
  { devices: 'default' },
);
