/** Who sees whom: ranges in both directions, no order, and a tree of drafts. `deno run -A examples/attention/masks.ts` */
import { type BatchEntry, openGpu } from 'pagewise';
import { Session } from './session.ts';
import { seen, size, unitRows } from './weights.ts';

const gpu = await openGpu();
const session = await Session.open(gpu, { numHeads: 1, headDim: size });

/** The keys that each of seven new tokens sees: all scores are 0, and values are unit vectors. */
async function whoSeesWhom(name: string, entry: Omit<BatchEntry, 'sequence' | 'queryLen'>): Promise<void> {
  const sequence = session.kv.open();
  session.kv.extend(sequence, 7);
  const zeros = new Float32Array(7 * size);
  const output = await session.step([{ sequence, queryLen: 7, ...entry }], { query: zeros, key: zeros, value: unitRows(7) });
  const rows = Array.from({ length: 7 }, (_, t) => seen(output.subarray(t * size, (t + 1) * size)).join(''));
  console.log(`${name}: ${rows.join(' ')}`);
  session.kv.close(sequence);
}

await whoSeesWhom('causal', {});
await whoSeesWhom('an image at tokens 1 to 3', { bidirectional: [[1, 4]] });
await whoSeesWhom('no order', { causal: false });

// A tree of drafts behind token 2: 3 and 4 are its children, 5 and 6 those of 3.
const parents = [-1, 0, 1, 2, 2, 3, 3];
const queryBias = new Float32Array(7 * 7).fill(-1e30); // -1e30 and less masks
for (let token = 0; token < 7; token++) {
  for (let ancestor = token; ancestor >= 0; ancestor = parents[ancestor]) queryBias[token * 7 + ancestor] = 0;
}
const positions = [0, 1, 2, 3, 3, 4, 4]; // for rotary embeddings: the depth in the tree
await whoSeesWhom('tree', { queryBias, positions });
gpu.destroy();
