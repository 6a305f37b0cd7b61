/** The parameters of vLLM's test of its unified attention kernel, all combinations; `npm run test:grid` runs them. */
import { adapterDefaults } from '../../src/attention/adapters.ts';
import { spec } from '../harness/harness.ts';
import { describe, type GridCase } from './grid.ts';
import { GridTotals, runCases } from './grid-run.ts';

const base = {
  device: 'granted',
  blockSize: 16,
  buffers: 1,
  modified: false,
  keepFirst: 0,
  alibi: 'none',
  sinks: 'none',
  order: 'causal',
  prefix: 'own',
  route: 'by length',
  deterministic: false,
  logSumExp: false,
  operands: 'apart',
  rotary: 'none',
} as const;

const totals = new GridTotals();
let index = 0;

for (const heads of ['4/4', '8/2', '5/1'] as const)
  for (const headDim of [128, 256])
    for (const storage of ['f16', 'e4m3 by token'] as const)
      for (const lengths of ['decode, draft and prompt', 'three single tokens'] as const)
        for (const window of ['none', 64, 128, 256] as const)
          for (const softcap of ['none', 50] as const)
            for (const numBlocks of [2048, 'largest'] as const)
              for (const splits of ['none', 7] as const) {
                const of = { heads, headDim, storage, lengths, window, softcap, splits };
                const number = index++;
                spec(
                  `${describe(of)}, blocks ${numBlocks}`,
                  async (t) => {
                    const maxInvocations = adapterDefaults(t.gpu.adapter).maxInvocations === 8 ? 8 : 128;
                    const whole: GridCase = { ...base, ...of, maxInvocations };
                    await runCases(t, t.gpu, [[number, whole]], totals, { numBlocks });
                  },
                  { full: true, devices: 'granted' },
                );
              }
