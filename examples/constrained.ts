/**
 * A pet as JSON, from a model that has never seen any. Needs `npm install @mlc-ai/web-xgrammar`. `deno run -A examples/constrained.ts`
 */
import { openGpu } from 'pagewise';
import { openConstraints } from 'pagewise/constrained';
import { Engine, filesFromUrl } from 'pagewise/engine';

const gpu = await openGpu();
const engine = await Engine.load(gpu, filesFromUrl(new URL('../demo/model/', import.meta.url)), { maxSequences: 1 });

const constraints = await openConstraints(engine);
const pet = await constraints.jsonSchema({
  type: 'object',
  properties: {
    name: { type: 'string', maxLength: 12 },
    age: { type: 'integer', minimum: 0, maximum: 30 },
    kind: { enum: ['cat', 'dog'] },
  },
  required: ['name', 'age', 'kind'],
});
const { text } = await engine.generate('Lily has a pet. ', { allowedTokens: pet.allowedTokens, temperature: 0.7, seed: 1 }).result;
const { name, age, kind } = JSON.parse(text);
console.log(`A ${kind} of ${age} years, with a name of ${name.length} letters.`);

pet.destroy(); // a constraint and the vocabulary live in WebAssembly, which nothing collects
constraints.destroy();
engine.destroy();
gpu.destroy();
