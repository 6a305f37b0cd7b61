import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Constraint, type Constraints, type JsonSchema, openConstraints } from '../../src/constrained/index.ts';
import { jsonTokens, writeOutRanges } from '../../src/constrained/schema.ts';
import { createTokenizer } from '../../src/engine/tokenizer.ts';
import { ConstraintError, InvalidArgumentError } from '../../src/errors.ts';
import { type Random, random } from '../harness/random.ts';
import { satisfies } from '../harness/schema.ts';

const readJson = (name: string): unknown => JSON.parse(readFileSync(`demo/model/${name}`, 'utf8'));
const stop = 0;
const named = { bosTokenId: stop, eosTokenIds: [stop] };
const tokenizer = createTokenizer(readJson('tokenizer.json'), readJson('tokenizer_config.json'), named);
const model = { tokenizer, config: { vocabSize: 4096, eosTokenIds: [stop] }, defaults: { eosTokenIds: undefined } };

let constraints: Constraints;
beforeAll(async () => {
  constraints = await openConstraints(model);
});
afterAll(() => constraints.destroy());

const allowed = (mask: Uint32Array): number[] =>
  Array.from({ length: mask.length * 32 }, (_, id) => id).filter((id) => (mask[id >> 5] >>> (id & 31)) & 1);

/** Any output at all that the masks let through: each token drawn from those allowed. */
function walk({ allowedTokens }: Constraint, numbers: Random, most = 400): number[] {
  const ids: number[] = [];
  while (ids.length < most) {
    const choices = allowed(allowedTokens(ids));
    expect(choices.length).toBeGreaterThan(0);
    const id = choices[numbers.integer(choices.length)];
    if (id === stop) return ids;
    ids.push(id);
  }
  throw new Error(`no end after ${most} tokens: ${tokenizer.decode(ids)}`);
}

const schemas: Readonly<Record<string, JsonSchema>> = {
  object: {
    type: 'object',
    properties: {
      name: { type: 'string', maxLength: 12 },
      age: { type: 'integer', minimum: 0, maximum: 120 },
      kind: { enum: ['cat', 'dog', 'bird'] },
      tame: { type: 'boolean' },
    },
    required: ['name', 'age', 'kind', 'tame'],
  },
  array: { type: 'array', items: { type: 'string', pattern: '^[a-z]{1,5}$' }, minItems: 1, maxItems: 4 },
  nested: {
    type: 'object',
    properties: { at: { type: 'object', properties: { x: { enum: [1, 2] }, y: { type: 'null' } }, required: ['x', 'y'] } },
    required: ['at'],
  },
};

describe.each(Object.entries(schemas))('the schema "%s"', (_, schema) => {
  test('lets nothing through that does not parse and satisfy it', async () => {
    const constraint = await constraints.jsonSchema(schema);
    const texts = Array.from({ length: 40 }, (_, seed) => tokenizer.decode(walk(constraint, random(seed))));
    for (const text of texts) expect(satisfies(JSON.parse(text), schema), text).toBe(true);
    expect(new Set(texts).size).toBeGreaterThan(1);
    constraint.destroy();
  });
});

describe('integer ranges', () => {
  test.each([
    [{ type: 'integer', minimum: 118, maximum: 121 }, { enum: [118, 119, 120, 121] }],
    [{ type: 'integer', exclusiveMinimum: -2, exclusiveMaximum: 2, multipleOf: 1 }, { enum: [-1, 0, 1] }],
    [{ type: 'integer', minimum: -4.5, maximum: 4.5, multipleOf: 4 }, { enum: [-4, 0, 4] }],
    [{ type: 'integer', minimum: 3, exclusiveMinimum: 3, maximum: 5 }, { enum: [4, 5] }],
    [{ items: { type: 'integer', minimum: 1, maximum: 2 } }, { items: { enum: [1, 2] } }],
    [{ $defs: { a: { anyOf: [true, { type: 'integer', minimum: 1, maximum: 1 }] } } }, { $defs: { a: { anyOf: [true, { enum: [1] }] } } }],
    [
      { prefixItems: [{ type: 'integer', minimum: 1, maximum: 1 }], items: false },
      { prefixItems: [{ enum: [1] }], items: false },
    ],
  ])('%j is written out', (schema, expected) => {
    expect(writeOutRanges(schema)).toEqual(expected);
  });

  test.each([
    { type: 'integer', minimum: 0, maximum: 512 },
    { type: 'integer', minimum: 0 },
    { type: 'integer', maximum: 5 },
    { type: 'integer', minimum: 2, maximum: 1 },
    { type: 'integer', minimum: 1, maximum: 2, multipleOf: 5 },
    { type: 'number', minimum: 0, maximum: 1 },
    { type: 'integer', minimum: 0, maximum: 9, enum: [3] },
    { enum: [{ type: 'integer', minimum: 1, maximum: 2 }] },
    { properties: { const: { const: { type: 'integer', minimum: 1, maximum: 2 } } } },
  ])('%j stays as it is', (schema) => {
    expect(writeOutRanges(schema)).toEqual(schema);
  });

  test('bound what is let through', async () => {
    const constraint = await constraints.jsonSchema({ type: 'integer', minimum: 95, maximum: 120 });
    const seen = new Set(Array.from({ length: 300 }, (_, seed) => Number(tokenizer.decode(walk(constraint, random(seed))))));
    expect(Math.min(...seen)).toBeGreaterThanOrEqual(95);
    expect(Math.max(...seen)).toBeLessThanOrEqual(120);
    expect(seen.size).toBeGreaterThan(10);
  });
});

describe('a constraint', () => {
  test('lays JSON out as asked', async () => {
    const schema = { type: 'object', properties: { a: { enum: [1] }, b: { enum: [2] } }, required: ['a', 'b'] };
    const text = async (options?: Parameters<Constraints['jsonSchema']>[1]) =>
      tokenizer.decode(walk(await constraints.jsonSchema(schema, options), random(1)));
    expect(await text()).toBe('{"a": 1, "b": 2}');
    expect(await text({ layout: 2 })).toBe('{\n  "a": 1,\n  "b": 2\n}');
    const { allowedTokens } = await constraints.jsonSchema(schema, { layout: 'any' });
    const ids = tokenizer.encode('{\n\n   "a"  :1 ,\n"b": 2 }', { addBos: false });
    expect(allowed(allowedTokens(ids))).toContain(stop);
  });

  test('holds output to a pattern', async () => {
    const constraint = await constraints.regex('(yes|no), [0-9]{3}');
    for (let seed = 0; seed < 20; seed++) expect(tokenizer.decode(walk(constraint, random(seed)))).toMatch(/^(yes|no), [0-9]{3}$/);
  });

  test('holds output to a grammar', async () => {
    const constraint = await constraints.grammar('root ::= "(" root ")" | "x"');
    for (let seed = 0; seed < 20; seed++) expect(tokenizer.decode(walk(constraint, random(seed)))).toMatch(/^(\(*)x(\)*)$/);
    const start = await constraints.grammar('first ::= "a"\nsecond ::= "b"', 'second');
    expect(tokenizer.decode(walk(start, random(1)))).toBe('b');
  });

  test('allows the end where output may end, and nothing else where it must', async () => {
    const constraint = await constraints.regex('a+');
    const a = tokenizer.encode('a', { addBos: false });
    expect(allowed(constraint.allowedTokens([]))).not.toContain(stop);
    expect(allowed(constraint.allowedTokens(a))).toEqual(expect.arrayContaining([stop, ...a]));
    const one = await constraints.regex('a');
    expect(allowed(one.allowedTokens(a))).toEqual([stop]);
  });

  test('never allows special tokens, though their names are text', async () => {
    const constraint = await constraints.regex('<\\|(endoftext|sep)\\|>');
    const seen = new Set<number>();
    for (let seed = 0; seed < 20; seed++) for (const id of walk(constraint, random(seed))) seen.add(id);
    expect([0, 1, 2, 3].filter((id) => seen.has(id))).toEqual([]);
    expect(allowed(constraint.allowedTokens([])).filter((id) => id < 4)).toEqual([]);
  });

  test('is a function of the ids alone, for outputs that take turns', async () => {
    const constraint = await constraints.jsonSchema(schemas.object);
    const numbers = random(5);
    const outputs = Array.from({ length: 4 }, (_, seed) => walk(constraint, random(seed)));
    const expected = new Map<string, readonly number[]>();
    for (const ids of outputs) {
      for (let length = 0; length <= ids.length; length++) {
        const fresh = await constraints.jsonSchema(schemas.object);
        expected.set(ids.slice(0, length).join(), allowed(fresh.allowedTokens(ids.slice(0, length))));
        fresh.destroy();
      }
    }
    for (let round = 0; round < 100; round++) {
      const ids = outputs[numbers.integer(outputs.length)];
      const prefix = ids.slice(0, numbers.integer(ids.length + 1));
      expect(allowed(constraint.allowedTokens(prefix))).toEqual(expected.get(prefix.join()));
    }
  });

  test('has a word for every 32 tokens of the logits, those without a token never allowed', async () => {
    const padded = await openConstraints({ ...model, config: { vocabSize: 4100, eosTokenIds: [stop] } });
    const mask = (await padded.regex('.*')).allowedTokens([]);
    expect(mask.length).toBe(129);
    expect(allowed(mask).filter((id) => id >= 4096)).toEqual([]);
    padded.destroy();
  });

  test('knows bytes and spaces as SentencePiece spells them', async () => {
    const tokens = ['', '▁a', 'a', '<0xC3>', '<0xA9>', '▁'];
    const pieces = { ...tokenizer, vocabulary: () => ({ tokens, spelling: 'byte-fallback' as const }) };
    const spelled = await openConstraints({ ...model, tokenizer: pieces, config: { vocabSize: 6, eosTokenIds: [stop] } });
    const { allowedTokens } = await spelled.regex('a aé');
    const steps = [[], [2], [2, 1], [2, 1, 3], [2, 1, 3, 4]].map((ids) => allowed(allowedTokens(ids)));
    expect(steps).toEqual([[2], [1, 5], [3], [4], [stop]]);
    spelled.destroy();
  });

  test('lets control characters into no string', () => {
    const kept = (spelling: 'byte-level' | 'byte-fallback' | 'raw', tokens: string[]) =>
      allowed(jsonTokens({ tokens, spelling }, tokens.length)).filter((id) => id < tokens.length);
    expect(kept('byte-level', ['a', 'Ċ', 'ĉ', 'Ġb', 'aĀ', 'Ł'])).toEqual([0, 1, 3, 5]);
    expect(kept('byte-fallback', ['<0x0A>', '<0x09>', '<0x20>', '\t', 'a\x01', '<0x1F>x', 'Ā'])).toEqual([0, 2, 5, 6]);
    expect(kept('raw', ['\n', '\r', ' ', '<0x09>'])).toEqual([0, 2, 3]);
  });

  test('says which output does not follow it, and goes on', async () => {
    const constraint = await constraints.regex('[0-9]{2}');
    const [digit] = tokenizer.encode('7', { addBos: false });
    const [letter] = tokenizer.encode('q', { addBos: false });
    expect(() => constraint.allowedTokens([digit, letter])).toThrow(ConstraintError);
    expect(() => constraint.allowedTokens([digit, letter])).toThrow(`token ${letter} cannot stand at place 1`);
    expect(allowed(constraint.allowedTokens([digit]))).toContain(digit);
  });
});

describe('what cannot be a constraint', () => {
  test.each([
    ['schema', (of: Constraints) => of.jsonSchema({ type: 5 }), /schema: XGrammar refuses \{"type":5\}/],
    ['regex', (of: Constraints) => of.regex('(a'), /regex: XGrammar refuses \(a\./],
    ['grammar', (of: Constraints) => of.grammar('root ::= missing'), /grammar: XGrammar refuses root/],
  ] as const)('a bad %s is refused, and the next one is not', async (kind, make, expected) => {
    const error = await make(constraints).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(ConstraintError);
    expect(error).toMatchObject({ constraint: kind, message: expect.stringMatching(expected) });
    expect(tokenizer.decode(walk(await constraints.regex('ok'), random(1)))).toBe('ok');
  });

  test('a model without tokenizer or end tokens', async () => {
    await expect(openConstraints({ ...model, tokenizer: undefined })).rejects.toThrow(InvalidArgumentError);
    await expect(openConstraints({ ...model, config: { vocabSize: 4096, eosTokenIds: [] } })).rejects.toThrow(/without end tokens/);
  });

  test('nothing of loading stays behind', () => {
    expect('location' in globalThis).toBe(false);
  });
});
