/** What a failed expectation throws. */
export class ExpectationError extends Error {
  override readonly name = 'ExpectationError';
}

export interface Tolerance {
  /** Absolute part of what is allowed; default 0. */
  readonly atol?: number;
  /** Part relative to the expected value's size; default 0. */
  readonly rtol?: number;
  /** What is compared, for the message. */
  readonly label?: string;
}

/** Fails with `message` unless `condition` holds. */
export function expect(condition: unknown, message: string): asserts condition {
  if (!condition) throw new ExpectationError(message);
}

/**
 * Every element within `atol + rtol * |expected|`; a NaN matches nothing but a NaN, an infinity only itself.
 * The message names the first bad index, the worst one, and how many are bad.
 */
export function expectClose(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: Tolerance = {}): void {
  const { atol = 0, rtol = 0, label = 'values' } = tolerance;
  expect(actual.length === expected.length, `${label}: ${actual.length} elements, expected ${expected.length}`);
  let bad = 0;
  let first = -1;
  let worst = -1;
  let worstExcess = -1;
  for (let i = 0; i < expected.length; i++) {
    if (Object.is(actual[i], expected[i])) continue;
    const excess = Math.abs(actual[i] - expected[i]) / (atol + rtol * Math.abs(expected[i]));
    if (excess <= 1 || actual[i] === expected[i]) continue;
    bad++;
    if (first < 0) first = i;
    const size = Number.isNaN(excess) ? Number.POSITIVE_INFINITY : excess;
    if (size > worstExcess) {
      worstExcess = size;
      worst = i;
    }
  }
  if (bad === 0) return;
  const at = (i: number) => `[${i}] is ${actual[i]}, expected ${expected[i]}`;
  throw new ExpectationError(
    `${label}: ${bad} of ${expected.length} outside atol ${atol}, rtol ${rtol}; first ${at(first)}; ` +
      `worst ${at(worst)} (${worstExcess.toPrecision(3)} times the tolerance)`,
  );
}

/** Deep equality of plain data: primitives (NaN equals itself), arrays, typed arrays, plain objects. Names the first path that differs. */
export function expectEqual(actual: unknown, expected: unknown, label = 'value'): void {
  const difference = firstDifference(actual, expected, label);
  if (difference) throw new ExpectationError(difference);
}

/**
 * `fn` throws, or returns a promise that rejects, with an error of `errorClass` (and a message that matches `message`).
 *
 * @returns the error, for further checks of its fields.
 */
export async function expectThrows<E extends Error>(
  errorClass: abstract new (...args: never[]) => E,
  fn: () => unknown,
  message?: RegExp,
): Promise<E> {
  let thrown: unknown;
  try {
    await fn();
  } catch (error) {
    thrown = error;
  }
  expect(thrown !== undefined, `nothing was thrown, expected ${errorClass.name}`);
  expect(thrown instanceof errorClass, `threw ${thrown}, expected ${errorClass.name}`);
  expect(!message || message.test(thrown.message), `threw "${thrown.message}", expected a message like ${message}`);
  return thrown;
}

function firstDifference(actual: unknown, expected: unknown, path: string): string | undefined {
  if (Object.is(actual, expected)) return undefined;
  if (!isObject(actual) || !isObject(expected)) return `${path} is ${show(actual)}, expected ${show(expected)}`;
  if (isList(actual) && isList(expected)) {
    const length = Math.min(actual.length, expected.length);
    for (let i = 0; i < length; i++) {
      const difference = firstDifference(actual[i], expected[i], `${path}[${i}]`);
      if (difference) return difference;
    }
    return actual.length === expected.length ? undefined : `${path} has ${actual.length} elements, expected ${expected.length}`;
  }
  for (const key of new Set([...Object.keys(actual), ...Object.keys(expected)])) {
    const difference = firstDifference(Reflect.get(actual, key), Reflect.get(expected, key), `${path}.${key}`);
    if (difference) return difference;
  }
  return undefined;
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null;
}

function isList(value: object): value is ArrayLike<unknown> {
  return Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView));
}

function show(value: unknown): string {
  return typeof value === 'string' || isObject(value) ? (JSON.stringify(value)?.slice(0, 200) ?? String(value)) : String(value);
}
