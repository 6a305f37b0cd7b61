/** What softcap, ALiBi and sinks do to the weights of one row. `deno run -A examples/attention/scores.ts` */
import { type AttentionOptions, openGpu } from 'pagewise';
import { show, weightsOf } from './weights.ts';

const gpu = await openGpu();
const options: Record<string, Partial<Omit<AttentionOptions, 'returns'>>> = {
  plain: {},
  softcap: { softcap: 1 },
  ALiBi: { alibi: { slopes: [0.5] } },
  'ALiBi by the root': { alibi: { slopes: [0.5], kind: 'sqrt' } },
  sink: { sinks: [3] },
};
for (const [name, option] of Object.entries(options)) {
  const weights = (await weightsOf(gpu, [1, 3, 0, 2], option))[3];
  const sum = weights.reduce((a, b) => a + b, 0);
  console.log(`${name}: ${show(weights)}, together ${sum.toFixed(2)}`);
}
gpu.destroy();
