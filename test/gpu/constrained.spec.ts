/** Output of the shipped model, held to schemas, patterns and grammars by XGrammar: each text follows, whatever the seed. */
import { type Constraints, openConstraints } from '../../src/constrained/index.ts';
import type { Engine } from '../../src/engine/index.ts';
import { expect, expectEqual, type SpecContext, spec } from '../harness/harness.ts';
import { satisfies } from '../harness/schema.ts';
import { loadEngine } from './shipped.ts';

const once = { devices: 'granted' } as const;
const onceAnywhere = { ...once, hostIndependent: true } as const;

const pet = {
  type: 'object',
  properties: {
    name: { type: 'string', maxLength: 10 },
    age: { type: 'integer', minimum: 0, maximum: 120 },
    kind: { enum: ['cat', 'dog', 'bird'] },
    friends: { type: 'array', items: { type: 'string', pattern: '^[A-Z][a-z]{1,6}$' }, maxItems: 2 },
  },
  required: ['name', 'age', 'kind', 'friends'],
};

async function open(t: SpecContext): Promise<{ readonly engine: Engine; readonly constraints: Constraints }> {
  const engine = await loadEngine(t, { maxSequences: 4 });
  const constraints = await openConstraints(engine);
  t.defer(() => constraints.destroy());
  return { engine, constraints };
}

spec(
  'every text under a schema parses and satisfies it, at several temperatures and seeds, side by side',
  async (t) => {
    const { engine, constraints } = await open(t);
    const { allowedTokens } = await constraints.jsonSchema(pet);
    const runs = [0.7, 1.5].flatMap((temperature) => [1, 2, 3].map((seed) => ({ temperature, seed })));
    const results = await Promise.all(
      // One constraint serves all of them, in turn.
      runs.map((options) => engine.generate('Once upon a time, there was', { ...options, topK: 0, maxTokens: 120, allowedTokens }).result),
    );
    for (const { text, finishReason } of results) {
      expectEqual(finishReason, 'stop', `the end of ${text}`);
      expect(satisfies(JSON.parse(text), pet), text);
    }
    t.log(results[0].text);
    expect(new Set(results.map(({ text }) => text)).size > 3, 'the texts differ');
  },
  onceAnywhere,
);

spec(
  'parallel samples each follow a pattern, beside a text that is free',
  async (t) => {
    const { engine, constraints } = await open(t);
    const { allowedTokens } = await constraints.regex('(yes|no), because [a-z ]{4,20}\\.');
    const free = { temperature: 0, maxTokens: 16 };
    const alone = await engine.generate('One day', free).result;
    const [held, beside] = await Promise.all([
      engine.generate('Do you like it?', { n: 3, temperature: 1, seed: 5, maxTokens: 60, allowedTokens }).result,
      engine.generate('One day', free).result,
    ]);
    for (const { text, finishReason } of held.choices) {
      expect(/^(yes|no), because [a-z ]{4,20}\.$/.test(text), text);
      expectEqual(finishReason, 'stop', `the end of ${text}`);
    }
    expectEqual(beside.ids.length, alone.ids.length, 'tokens of the free text');
  },
  once,
);

spec(
  'text under a grammar is one of its words',
  async (t) => {
    const { engine, constraints } = await open(t);
    const { allowedTokens } = await constraints.grammar('root ::= "one" | "two" | "three"');
    const { text } = await engine.generate('There was', { temperature: 0, maxTokens: 8, allowedTokens }).result;
    expect(['one', 'two', 'three'].includes(text), text);
  },
  once,
);
