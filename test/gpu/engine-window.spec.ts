/** A model with a sliding window (Mistral), against a plain forward pass in float64: the same logits and tokens, in no more blocks than the window needs. */
import { parseModelConfig } from '../../src/engine/config.ts';
import { Engine, type EngineOptions, filesFrom, type ModelFiles } from '../../src/engine/index.ts';
import { openSafetensors } from '../../src/engine/safetensors.ts';
import { blocksAtOnce } from '../../src/engine/window.ts';
import { BlocksExhaustedError } from '../../src/index.ts';
import { expect, expectClose, expectEqual, expectThrows, type SpecContext, spec } from '../harness/harness.ts';
import { random } from '../harness/random.ts';
import { referenceLogits } from '../unit/reference.ts';
import { readJson } from './shipped.ts';
import { fixture, greedy } from './side-by-side.ts';

const once = { devices: 'granted', hostIndependent: true } as const;
const long = { ...once, timeout: 600_000 } as const;

const window = 40;
const blockSize = 16;

const numbers = random(3);
const tokens = (length: number) => Array.from({ length }, () => 3 + numbers.integer(317));
/** Shorter than the window, longer than it, and several times as long; two begin alike, beyond the window. */
const common = tokens(90);
const prompts = [tokens(9), tokens(64), [...common, ...tokens(60)], [...common, ...tokens(7)]];
const maxTokens = 60;

/** The weights of a fixture as a Mistral model. */
function mistral(t: SpecContext, changes: Record<string, unknown> = { sliding_window: window }): ModelFiles {
  return filesFrom(fixture, async (name) => {
    if (name !== 'config.json') return t.readFile(`${fixture}/${name}`).catch(() => undefined);
    const config = await readJson<Record<string, unknown>>(t, `${fixture}/config.json`);
    const changed = { ...config, architectures: ['MistralForCausalLM'], model_type: 'mistral', ...changes };
    return new TextEncoder().encode(JSON.stringify(changed));
  });
}

async function load(t: SpecContext, options: EngineOptions = {}, files = mistral(t)): Promise<Engine> {
  const engine = await Engine.load(t.gpu, files, { subgroupMatrices: false, blockSize, ...options });
  t.defer(() => engine.destroy());
  return engine;
}

async function reference(t: SpecContext, ids: readonly number[], keys: number | 'all' = window): Promise<Float64Array[]> {
  const config = parseModelConfig(await readJson(t, `${fixture}/config.json`));
  const tensors = await openSafetensors(mistral(t));
  try {
    return await referenceLogits({ ...config, slidingWindow: keys === 'all' ? undefined : keys }, tensors, ids);
  } finally {
    tensors.close();
  }
}

const largest = (row: ArrayLike<number>) => Array.from(row).reduce((best, value, i) => (value > row[best] ? i : best), 0);

/** What the reference writes after each prompt, greedily, up to the first token whose lead is too small to tell rounding from error. */
function expectedTokens(t: SpecContext): Promise<readonly (readonly number[])[]> {
  expected ??= (async () => {
    const engine = await load(t, { maxSequences: 1, prefixCaching: false, runAhead: 1 });
    const all: number[][] = [];
    for (const prompt of prompts) {
      const { ids } = await engine.generate(prompt, { ...greedy, maxTokens }).result;
      const rows = (await reference(t, [...prompt, ...ids])).slice(prompt.length - 1, -1);
      const sure = rows.findIndex((row) => {
        const [first, second] = [...row].sort((a, b) => b - a);
        return first - second < 0.001;
      });
      const count = sure < 0 ? ids.length : sure;
      expectEqual(ids.slice(0, count), rows.slice(0, count).map(largest), `tokens after ${prompt.length} others`);
      expect(count >= 30, `only ${count} tokens after ${prompt.length} others have a clear lead`);
      all.push(ids.slice(0, count));
    }
    return all;
  })();
  return expected;
}

let expected: Promise<readonly (readonly number[])[]> | undefined;

/** Writes after prompts, all at once, and compares. @returns the most blocks that were in use when a token came. */
async function expectSameTokens(t: SpecContext, engine: Engine, label: string, order: readonly number[] = [0, 1, 2, 3]): Promise<number> {
  const { blocks } = engine.kv;
  let used = 0;
  const written = await Promise.all(
    order.map(async (index) => {
      const generation = engine.generate(prompts[index], { ...greedy, maxTokens });
      for await (const _ of generation) used = Math.max(used, blocks.size - 1 - blocks.free);
      return (await generation.result).ids;
    }),
  );
  const expectedIds = await expectedTokens(t);
  for (const [i, index] of order.entries()) {
    const ids = expectedIds[index];
    expectEqual(written[i].slice(0, ids.length), ids, `tokens of prompt ${index}, ${label}`);
  }
  expectEqual([blocks.free, engine.kv.sequences.size], [blocks.size - 1, 0], `free blocks and open sequences, ${label}`);
  return used;
}

spec(
  'logits and likelihoods of a window are those of the reference',
  async (t) => {
    const ids = [...prompts[2], ...prompts[1]];
    const rows = await reference(t, ids);
    const full = await reference(t, ids, 'all');
    expect(Math.abs(rows.at(-1)![0] - full.at(-1)![0]) > 0.01, 'the window makes no difference');
    const nll = ids.slice(1).map((id, i) => {
      const top = Math.max(...rows[i]);
      return top + Math.log(rows[i].reduce((sum, logit) => sum + Math.exp(logit - top), 0)) - rows[i][id];
    });
    const needed = blocksAtOnce({ window }, 64, blockSize);
    expect(needed < Math.ceil(ids.length / blockSize), 'the pool must be shorter than the sequence');
    for (const options of [{}, { maxTokensPerStep: 7 }, { numBlocks: 1 + needed }, { numBlocks: 6 }, { launchCache: 'verify' }] as const) {
      const engine = await load(t, options);
      const label = JSON.stringify(options);
      expectClose(await engine.logits(ids), rows.at(-1)!, { atol: 2e-4, label: `logits, ${label}` });
      expectClose(await engine.score(ids), nll, { atol: 2e-4, label: `likelihoods, ${label}` });
      engine.destroy();
    }
    const none = await load(t, {}, mistral(t, { sliding_window: null }));
    expectClose(await none.logits(ids), full.at(-1)!, { atol: 2e-4, label: 'logits without a window' });
  },
  long,
);

spec(
  'tokens of a window are those of the reference, with and without a prefix cache, in chunks, at every depth and in every cache mode',
  async (t) => {
    const variants: EngineOptions[] = [
      { maxTokensPerStep: 64 },
      { maxTokensPerStep: 16, prefixCaching: false },
      { maxTokensPerStep: 48, longPrefillThreshold: 20, runAhead: 1 },
      { maxTokensPerStep: 32, runAhead: 16, prefixCaching: false },
      { maxTokensPerStep: 64, launchCache: 'off' },
      { maxTokensPerStep: 64, launchCache: 'verify', maxSequences: 2 },
    ];
    for (const options of variants) {
      const engine = await load(t, options);
      const { maxTokensPerStep = 0, longPrefillThreshold = maxTokensPerStep, maxSequences = 4 } = options;
      const label = JSON.stringify(options);
      for (const round of [label, `${label}, again`]) {
        const used = await expectSameTokens(t, engine, round);
        const most = maxSequences * blocksAtOnce({ window }, longPrefillThreshold, blockSize);
        expect(used <= most, `${used} blocks in use, ${round}, but ${most} hold what ${maxSequences} windows and steps need`);
      }
      const { prefixHits } = engine.stats();
      expect(options.prefixCaching === false ? prefixHits === 0 : prefixHits >= 64 - blockSize + 80, `${prefixHits} hits, ${label}`);
      expectEqual(engine.launchStats().falseHits, 0, 'false hits');
      engine.destroy();
    }
  },
  long,
);

spec(
  'tokens of a window are the same in a pool that is shorter than a sequence, with preemptions',
  async (t) => {
    const shorter = Math.ceil((prompts[2].length + maxTokens) / blockSize) - 4;
    for (const options of [{}, { prefixCaching: false }, { runAhead: 1, maxTokensPerStep: 32 }, { runAhead: 16 }] as const) {
      const engine = await load(t, { numBlocks: 1 + shorter, ...options });
      await expectSameTokens(t, engine, JSON.stringify(options), [0, 0, 0, 1, 2, 3, 0]); // the short ones grow into each other's blocks
      const { preemptions } = engine.stats();
      expect(preemptions > 0, 'nothing was preempted');
      t.log(`${preemptions} preemptions with ${JSON.stringify(options)}`);
      engine.destroy();
    }
  },
  long,
);

spec(
  'samples of a prompt longer than the window fork it, and a conversation beyond the window goes on from its last blocks',
  async (t) => {
    const engine = await load(t, { numBlocks: 14 });
    const [prompt, ids] = [prompts[2], (await expectedTokens(t))[2]];
    const options = { temperature: 1, seed: 3, maxTokens: 20, ignoreEos: true };
    const { choices } = await engine.generate(prompt, { ...options, n: 3 }).result;
    expectEqual(new Set(choices.map((one) => one.ids.join())).size, 3, 'different samples');
    const alone = await engine.generate(prompt, options).result;
    expectEqual([...choices[0].ids], [...alone.ids], 'the first sample alone');
    const first = await engine.generate(prompt, { ...greedy, maxTokens }).result;
    expectEqual(first.ids.slice(0, ids.length), ids, 'tokens');
    const turn = [...prompt, ...first.ids, 5, 6, 7];
    const second = await engine.generate(turn, { ...greedy, maxTokens: 8 }).result;
    // 210 tokens are 13 blocks; without the window, 14 blocks of which the first are gone hold nothing that could be found.
    expectEqual(second.cachedTokens, 208, 'cached tokens of a conversation that goes on');
    const rows = await reference(t, [...turn, ...second.ids]);
    expectEqual([...second.ids], rows.slice(turn.length - 1, -1).map(largest), 'tokens of the second turn');
    const guessed = await engine.generate(prompt, { ...greedy, maxTokens, speculate: { numTokens: 4, minNgram: 1 } }).result;
    expectEqual(guessed.ids.slice(0, ids.length), ids, 'tokens with guesses');
  },
  long,
);

spec(
  'a pool too small for the window rejects what is longer',
  async (t) => {
    const engine = await load(t, { numBlocks: 1 + blocksAtOnce({ window }, 1, blockSize) - 1 });
    await expectThrows(BlocksExhaustedError, () => engine.generate(prompts[2], greedy).result, /free of 3/);
    await expectThrows(BlocksExhaustedError, () => engine.logits(prompts[2]), /free of 3/);
    expectEqual([engine.maxSequenceLength, (await load(t, { numBlocks: 5 })).maxSequenceLength], [48, 512], 'longest sequences');
    const [ids] = await expectedTokens(t);
    const { ids: short } = await engine.generate(prompts[0], { ...greedy, maxTokens: 20 }).result;
    expectEqual([...short], ids.slice(0, 20), 'tokens of a short one');
  },
  once,
);
