/** Sequences that fork, are saved and come back; a pool of several buffers. `deno run -A examples/attention/sequences.ts` */
import { openGpu } from 'pagewise';
import { largestDifference, Session } from './session.ts';

const gpu = await openGpu();
const session = await Session.open(gpu, { kv: { numBlocks: 33, maxBlocksPerBuffer: 16 } });
console.log(`pool: ${session.kv.pools[0].length} buffers`);

// A prompt of 20 tokens takes three blocks of 8; its fork takes none.
const prompt = session.kv.open();
session.kv.extend(prompt, 20);
await session.step([{ sequence: prompt, queryLen: 20 }], session.rowsOf(Array.from({ length: 20 }, (_, i) => i)));
const free = () => session.kv.blocks.free;
const before = free();
const fork = session.kv.fork(prompt);
console.log(`fork: ${before - free()} blocks more`);

// The first to write into the shared last block gets a copy of it.
session.kv.extend(fork, 1);
const next = session.rowsOf([50]);
const output = await session.step([{ sequence: fork, queryLen: 1 }], next);
console.log(`copy-on-write: ${before - free()} block more`);

// Saved, closed, restored into another cache: the next token has the same result.
session.kv.truncate(fork, 20);
const snapshot = await session.kv.save(fork);
session.kv.close(fork);
const other = await Session.open(gpu);
const restored = other.kv.restore(snapshot);
other.kv.extend(restored, 1);
const again = await other.step([{ sequence: restored, queryLen: 1 }], next);
console.log(
  `restored ${restored.length - 1} tokens from ${snapshot.byteLength} bytes, the same result: ${largestDifference(output, again) < 1e-6}`,
);
gpu.destroy();
