/** Rows that do not depend on their batch, and their log-sum-exps. `deno run -A examples/attention/results.ts` */
import { openGpu } from 'pagewise';
import { largestDifference, Session } from './session.ts';

const gpu = await openGpu();
const session = await Session.open(gpu, { attention: { deterministic: true, logSumExp: true } });
const open = async (length: number) => {
  const sequence = session.kv.open();
  session.kv.extend(sequence, length);
  await session.step([{ sequence, queryLen: length }], session.rowsOf(Array.from({ length }, (_, i) => i)));
  session.kv.extend(sequence, 1);
  return sequence;
};
const [one, two, three] = [await open(100), await open(7), await open(200)];

const alone = await session.step([{ sequence: one, queryLen: 1 }], session.rowsOf([300]));
const { buffer, offset } = session.attention.logSumExp!;
const [logSumExp] = await session.read(buffer, offset, 4);
const batch = [two, one, three].map((sequence) => ({ sequence, queryLen: 1 }));
const among = await session.step(batch, session.rowsOf([301, 300, 302]));
const width = session.numHeads * session.headDim;
console.log(`the same bits: ${largestDifference(alone, among.subarray(width, 2 * width)) === 0}`);

const second = await session.read(buffer, offset, 3 * session.numHeads * 4);
console.log(`the same log-sum-exp: ${second[session.numHeads] === logSumExp}`);
gpu.destroy();
