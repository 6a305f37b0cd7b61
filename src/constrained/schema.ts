/** JSON schemas and vocabularies as XGrammar gets them right. Pure. */
import type { Vocabulary } from '../engine/tokenizer.ts';

/** A JSON schema: an object as JSON has it, or true for any value. */
export type JsonSchema = boolean | Readonly<Record<string, unknown>>;

/** Most integers of a range that are written out. */
const mostIntegers = 512;

/** Keywords whose value is a schema, a list of schemas, or schemas by name. What others hold is data and stays as it is. */
const nested = new Set([
  'items',
  'additionalProperties',
  'unevaluatedItems',
  'unevaluatedProperties',
  'not',
  'if',
  'then',
  'else',
  'contains',
]);
const listed = new Set(['anyOf', 'oneOf', 'allOf', 'prefixItems']);
const named = new Set(['properties', 'patternProperties', '$defs', 'definitions', 'dependentSchemas']);

/**
 * The schema with each integer range of up to 512 values as an `enum`. XGrammar 0.1.27 makes `{"minimum": 0, "maximum": 120}` let 121 to 129
 * through, and knows no `multipleOf`.
 */
export function writeOutRanges(schema: JsonSchema): JsonSchema {
  if (typeof schema === 'boolean') return schema;
  const values = integersOf(schema);
  if (values) return { enum: values };
  return Object.fromEntries(Object.entries(schema).map(([keyword, value]) => [keyword, rewrite(keyword, value)]));
}

function rewrite(keyword: string, value: unknown): unknown {
  if (nested.has(keyword) && isSchema(value)) return writeOutRanges(value);
  if ((listed.has(keyword) || keyword === 'items') && Array.isArray(value))
    return value.map((one) => (isSchema(one) ? writeOutRanges(one) : one));
  if (named.has(keyword) && isSchema(value) && typeof value === 'object')
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, isSchema(one) ? writeOutRanges(one) : one]));
  return value;
}

function isSchema(value: unknown): value is JsonSchema {
  return typeof value === 'boolean' || (typeof value === 'object' && value !== null && !Array.isArray(value));
}

/** The integers that a schema of a short range accepts; undefined for another schema, and for a range without values. */
function integersOf(schema: Readonly<Record<string, unknown>>): number[] | undefined {
  const { type, minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf } = schema;
  const isNumber = (value: unknown): value is number => typeof value === 'number';
  if (type !== 'integer' || 'enum' in schema || 'const' in schema || '$ref' in schema) return undefined;
  const lower = [isNumber(minimum) && Math.ceil(minimum), isNumber(exclusiveMinimum) && Math.floor(exclusiveMinimum) + 1].filter(isNumber);
  const upper = [isNumber(maximum) && Math.floor(maximum), isNumber(exclusiveMaximum) && Math.ceil(exclusiveMaximum) - 1].filter(isNumber);
  const least = Math.max(...lower);
  const count = Math.min(...upper) - least + 1;
  if (lower.length === 0 || upper.length === 0 || !(count >= 1 && count <= mostIntegers)) return undefined;
  const values = Array.from({ length: count }, (_, i) => least + i).filter((value) => !isNumber(multipleOf) || value % multipleOf === 0);
  // -0 is no other number.
  return values.length > 0 ? values.map((value) => value + 0) : undefined;
}

/**
 * A mask of the tokens that JSON may be made of: without those that hold a control character but a line feed. XGrammar 0.1.27 lets the others into
 * strings whose length is bounded, where JSON has them escaped.
 */
export function jsonTokens({ tokens, spelling }: Vocabulary, vocabSize: number): Uint32Array {
  const mask = new Uint32Array(Math.ceil(vocabSize / 32)).fill(0xffffffff);
  for (const [id, token] of tokens.entries()) if (id < vocabSize && hasControl[spelling](token)) mask[id >> 5] &= ~(1 << (id & 31));
  return mask;
}

const isControl = (code: number): boolean => code < 32 && code !== 10;
const someCharacter = (token: string, holds: (code: number) => boolean): boolean => [...token].some((one) => holds(one.charCodeAt(0)));

const hasControl: Readonly<Record<Vocabulary['spelling'], (token: string) => boolean>> = {
  // GPT-2 spells the bytes 0 to 32 as the characters from U+0100 on.
  'byte-level': (token) => someCharacter(token, (code) => isControl(code - 256) && code >= 256),
  'byte-fallback': (token) => {
    const byte = /^<0x([0-9A-F]{2})>$/.exec(token);
    return byte ? isControl(Number.parseInt(byte[1], 16)) : someCharacter(token, isControl);
  },
  raw: (token) => someCharacter(token, isControl),
};
