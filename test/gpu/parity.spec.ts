import type { EngineOptions } from '../../src/engine/index.ts';
import type { KvDtype } from '../../src/index.ts';
import { expect, expectClose, expectEqual, type SpecContext, spec } from '../harness/harness.ts';
import { evalPassages, goldenPrompts, loadEngine, readJson } from './shipped.ts';

/** Greedy text of the golden prompts. f16 KV may go another way once the first margin is below 0.02. */
async function greedyParity(t: SpecContext, kvDtype: KvDtype, options: EngineOptions = {}): Promise<void> {
  const engine = await loadEngine(t, { kvDtype, ...options });
  for (const { text, ids, greedy_ids, greedy_text, greedy_margins } of await goldenPrompts(t)) {
    const generation = engine.generate(text, { temperature: 0, maxTokens: greedy_ids.length });
    const result = await generation.result;
    expectEqual([...result.promptIds], [...ids], `prompt ids of "${text}"`);
    const close = greedy_margins.findIndex((margin) => margin < 0.02);
    const compared = kvDtype === 'f16' && close >= 0 ? close : greedy_ids.length;
    expectEqual(result.ids.slice(0, compared), greedy_ids.slice(0, compared), `greedy ids after "${text}"`);
    if (compared === greedy_ids.length) expectEqual(result.text, greedy_text, `greedy text after "${text}"`);
  }
}

spec('greedy tokens, f32', (t) => greedyParity(t, 'f32'), { devices: 'granted' });
spec('greedy tokens, f16', (t) => greedyParity(t, 'f16'), { devices: 'default' });

for (const kvDtype of ['f32', 'f16'] as const) {
  for (const launchCache of ['on', 'off'] as const) {
    for (const runAhead of [1, 8]) {
      const run = (t: SpecContext) => greedyParity(t, kvDtype, { launchCache, runAhead });
      spec(`greedy tokens, ${kvDtype}, launch cache ${launchCache}, run-ahead ${runAhead}`, run, {
        full: true,
        devices: 'granted',
        timeout: 600_000,
      });
    }
  }
}

spec(
  'top-5 logits after each prompt',
  async (t) => {
    const engine = await loadEngine(t);
    for (const { ids, top5 } of await goldenPrompts(t)) {
      const logits = await engine.logits(ids);
      expectClose(
        top5.ids.map((id) => logits[id]),
        top5.logits,
        { atol: 2e-3, rtol: 0 },
      );
    }
  },
  { devices: 'granted' },
);

/** Mean and per-passage negative log likelihood; software adapters have time for few passages. `npm run eval`'s test has all of them in f32. */
async function likelihoodParity(t: SpecContext, options: EngineOptions, few: number, tolerance: { mean: number; passage: number }) {
  const engine = await loadEngine(t, options);
  const passages = (await evalPassages(t)).slice(
    0,
    t.gpu.adapter.software && !t.full ? (t.host === 'chromium' ? few : 4 * few) : undefined,
  );
  const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;
  const differences: number[] = [];
  for (const [index, { ids, nll }] of passages.entries()) {
    const scored = await engine.score(ids);
    expectEqual(scored.length, nll.length, 'tokens scored');
    const difference = mean(scored) - mean(nll);
    expect(Math.abs(difference) <= tolerance.passage, `passage ${index}: mean nll off by ${difference}, more than ${tolerance.passage}`);
    differences.push(difference);
  }
  const overall = mean(differences);
  expect(Math.abs(overall) <= tolerance.mean, `mean nll off by ${overall}, more than ${tolerance.mean}`);
  t.log(`${passages.length} passages, mean nll off by ${overall.toExponential(2)}`);
}

spec('likelihood of held-out text, f32', (t) => likelihoodParity(t, { kvDtype: 'f32' }, 2, { mean: 5e-5, passage: 2e-4 }), {
  devices: 'granted',
  timeout: 1_800_000,
});
spec(
  'likelihood of held-out text, f16',
  (t) => {
    // By matrices, inputs of products are rounded as well as keys and values.
    const tolerance = t.gpu.features.subgroupMatrices ? { mean: 5e-4, passage: 3e-3 } : { mean: 1e-4, passage: 1e-3 };
    return likelihoodParity(t, { kvDtype: 'f16', subgroupMatrices: true }, 1, tolerance);
  },
  { devices: 'granted', timeout: 1_800_000 },
);

interface Fixture {
  readonly ids: readonly (readonly number[])[];
  readonly positions: readonly number[];
  readonly logits: readonly (readonly (readonly number[])[])[];
  readonly greedy: readonly (readonly number[])[];
  readonly margins: readonly (readonly number[])[];
}

for (const name of ['llama', 'llama-bias', 'llama-linear-rope', 'llama-yarn', 'llama3-rope']) {
  spec(
    `fixture ${name}`,
    async (t) => {
      const folder = `test/golden/fixtures/${name}`;
      const engine = await loadEngine(t, {}, folder);
      const golden = await readJson<Fixture>(t, `${folder}/golden.json`);
      for (const [sequence, ids] of golden.ids.entries()) {
        for (const [index, position] of golden.positions.entries()) {
          const logits = await engine.logits(ids.slice(0, position + 1));
          expectClose(logits, golden.logits[sequence][index], { atol: 2e-3, rtol: 1e-3 });
        }
        const greedy = golden.greedy[sequence];
        const { ids: written } = await engine.generate(ids, { temperature: 0, maxTokens: greedy.length }).result;
        expectEqual([...written], greedy.slice(0, written.length), 'greedy ids');
      }
    },
    { devices: 'default', hostIndependent: name.includes('-') },
  );
}
