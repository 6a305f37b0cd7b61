/** A sliding window, and the first keys kept. `deno run -A examples/attention/windows.ts` */
import { openGpu } from 'pagewise';
import { seen, weightsOf } from './weights.ts';

const gpu = await openGpu();
const scores = new Array(10).fill(0);
for (const options of [{}, { window: 3 }, { window: 3, keepFirst: 2 }]) {
  const weights = await weightsOf(gpu, scores, options);
  console.log(`${JSON.stringify(options)}: the last query sees ${seen(weights[9]).join(' ')}`);
}
gpu.destroy();
