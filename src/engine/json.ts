/**
 * Reads values out of parsed JSON files, and says which key is wrong when one is.
 */
import { ModelFileError } from '../errors.ts';

/** A JSON object: neither null nor an array. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/**
 * Typed access to one JSON object. A key that is absent or null gives the fallback; without a fallback it is an error.
 * Every method throws a ModelFileError that names the file and the key when the value is not what it should be.
 */
export interface JsonFields {
  readonly file: string;
  /** The value as it is; null counts as absent. */
  raw(key: string): unknown;
  /** Whether the key is there, be it null. */
  has(key: string): boolean;
  boolean(key: string, fallback?: boolean): boolean;
  string(key: string, fallback?: string): string;
  /** An integer of at least `min`. */
  integer(key: string, min: number, fallback?: number): number;
  /** A finite number that passes `allowed`; `expected` says in words which do. */
  number(key: string, expected: string, allowed: (value: number) => boolean, fallback?: number): number;
  /** One token id or an array of them; absent gives undefined. */
  tokenIds(key: string): readonly number[] | undefined;
  /** A nested object; absent gives undefined. Its keys show as `key.inner` in errors. */
  object(key: string): JsonFields | undefined;
  /** For a value that only the caller can judge. */
  fail(key: string, expected: string): never;
}

/**
 * @param file the file's name, for errors.
 * @throws {ModelFileError} when `json` is not an object.
 */
export function jsonFields(json: unknown, file: string, prefix = ''): JsonFields {
  if (!isRecord(json)) throw new ModelFileError(file, `${prefix ? `"${prefix.slice(0, -1)}"` : 'its content'} is not a JSON object.`);
  const raw = (key: string): unknown => (Object.hasOwn(json, key) ? (json[key] ?? undefined) : undefined);
  const fail = (key: string, expected: string): never => {
    const value = raw(key);
    const is = value === undefined ? 'missing' : JSON.stringify(value);
    throw new ModelFileError(file, `"${prefix}${key}" is ${is}, but must be ${expected}.`);
  };
  function read<T>(key: string, expected: string, fallback: T | undefined, accept: (value: unknown) => value is T): T {
    const value = raw(key) ?? fallback;
    return accept(value) ? value : fail(key, expected);
  }
  return {
    file,
    raw,
    has: (key) => Object.hasOwn(json, key),
    fail,
    boolean: (key, fallback) => read(key, 'true or false', fallback, (value) => typeof value === 'boolean'),
    string: (key, fallback) => read(key, 'a text', fallback, (value) => typeof value === 'string'),
    integer: (key, min, fallback) =>
      read(
        key,
        `an integer of at least ${min}`,
        fallback,
        (value): value is number => Number.isSafeInteger(value) && (value as number) >= min,
      ),
    number: (key, expected, allowed, fallback) =>
      read(key, expected, fallback, (value): value is number => Number.isFinite(value) && allowed(value as number)),
    tokenIds(key) {
      const value = raw(key);
      if (value === undefined) return undefined;
      const ids: unknown[] = Array.isArray(value) ? value : [value];
      return ids.every(isTokenId) ? ids : fail(key, 'a token id or an array of them');
    },
    object(key) {
      const value = raw(key);
      return value === undefined ? undefined : jsonFields(value, file, `${prefix}${key}.`);
    },
  };
}

function isTokenId(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** The `count` of `candidates` that take the fewest edits to become `name` (Levenshtein distance), nearest first. */
export function nearest(name: string, candidates: Iterable<string>, count: number): string[] {
  return [...candidates]
    .map((candidate) => ({ candidate, distance: editDistance(name, candidate) }))
    .sort((a, b) => a.distance - b.distance)
    .slice(0, count)
    .map(({ candidate }) => candidate);
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, column) => column);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(substitution, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
