/**
 * The numbers that a person may type, in the terminal's options and in the page's fields: one rule for each.
 */

/** Which numbers are allowed, and in words. */
export interface NumberRule {
  /** Completes "must be ...". */
  readonly expected: string;
  readonly integer: boolean;
  readonly min: number;
  readonly max: number;
  /** `min` itself is not allowed. */
  readonly above?: boolean;
  /** Only multiples of it are allowed. */
  readonly multipleOf?: number;
}

/** The largest seed: 32 bits. */
export const largestSeed = 2 ** 32 - 1;

const anyCount = Number.MAX_SAFE_INTEGER;

/** The rules of a generation's options and of an engine's. */
export const numberRules = {
  maxTokens: { expected: 'an integer of at least 1', integer: true, min: 1, max: anyCount },
  temperature: { expected: 'a number of at least 0 (0 = greedy)', integer: false, min: 0, max: Number.MAX_VALUE },
  topK: { expected: 'an integer of at least 0 (0 = all tokens)', integer: true, min: 0, max: anyCount },
  topP: { expected: 'a number above 0 and at most 1', integer: false, min: 0, max: 1, above: true },
  seed: { expected: `an integer from 0 to ${largestSeed}`, integer: true, min: 0, max: largestSeed },
  blockSize: { expected: 'a positive multiple of 8', integer: true, min: 8, max: anyCount, multipleOf: 8 },
  speculate: { expected: 'an integer from 1 to 15', integer: true, min: 1, max: 15 },
  port: { expected: 'a port from 0 (any free one) to 65535', integer: true, min: 0, max: 65_535 },
  count: { expected: 'an integer of at least 1', integer: true, min: 1, max: anyCount },
  runAhead: { expected: 'an integer from 1 to 32', integer: true, min: 1, max: 32 },
} satisfies Record<string, NumberRule>;

/** Reads a whole text as one decimal number; undefined when it is none, or when the rule forbids it. */
export function parseNumber(text: string, rule: NumberRule): number | undefined {
  const trimmed = text.trim();
  if (!/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(trimmed)) return undefined;
  const value = Number(trimmed);
  const allowed =
    value >= rule.min &&
    value <= rule.max &&
    !(rule.above && value === rule.min) &&
    !(rule.integer && !Number.isSafeInteger(value)) &&
    !(rule.multipleOf && value % rule.multipleOf !== 0);
  return allowed ? value : undefined;
}

/** A seed for those who named none, so that it can be shown and the same text be had again. */
export function randomSeed(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0] ?? 0;
}
