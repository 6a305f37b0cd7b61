/**
 * A story from an engine in a worker, in Deno; a page does the same. `deno run -A examples/worker/main.ts`
 */
import { createWorkerEngine } from 'pagewise/worker';

const worker = new Worker(new URL('./engine-worker.ts', import.meta.url), { type: 'module' });
const engine = await createWorkerEngine(worker, new URL('../../demo/model/', import.meta.url));

const stopping = new AbortController();
const generation = engine.generate('Once upon a time', { temperature: 0, maxTokens: 1000, signal: stopping.signal });
let text = 'Once upon a time';
for await (const chunk of generation) {
  text += chunk.text;
  if (text.includes('.')) stopping.abort();
}
console.log(text.slice(0, text.indexOf('.') + 1));
console.log(`Ended by: ${(await generation.result).finishReason}.`);

// Errors come through with their classes and fields.
const tooLong = await engine.generate('word '.repeat(1100)).result.catch((error) => error);
console.log(`${tooLong.constructor.name}: ${tooLong.tokens} tokens in a context of ${tooLong.contextLength}.`);

engine.destroy();
worker.terminate();
