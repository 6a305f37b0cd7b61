/** An engine behind OpenAI's API, asked without a port: the handler is a function. Run it from the repository's root: deno run -A examples/serve.ts */
import { readFile } from 'node:fs/promises';
import { openGpu } from 'pagewise';
import { Engine, filesFrom } from 'pagewise/engine';
import { createHandler, readChatTemplate } from 'pagewise/serve';

const files = filesFrom('demo/model', async (name) => {
  const bytes = await readFile(`demo/model/${name}`).catch(() => undefined);
  return bytes && new Uint8Array(bytes);
});
const gpu = await openGpu();

const engine = await Engine.load(gpu, files, { maxSequences: 32, maxWaiting: 256 });
const handler = createHandler(engine, { modelName: 'stories', chatTemplate: await readChatTemplate(files) });
const request = new Request('http://localhost/v1/completions', {
  method: 'POST',
  headers: { 'content-type': 'application/json' },
  body: JSON.stringify({ model: 'stories', prompt: 'Once upon a time', max_tokens: 8, temperature: 0 }),
});
const { choices, usage } = await (await handler(request)).json();

console.log(`${choices[0].text} (${choices[0].finish_reason})`);
console.log(`${usage.prompt_tokens} + ${usage.completion_tokens} = ${usage.total_tokens} tokens`);
engine.destroy();
gpu.destroy();
