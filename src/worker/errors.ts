/** Errors across a message port, which keeps of an error its message alone: here they keep class, fields and cause. Pure. */
import * as pagewiseErrors from '../errors.ts';

/** An error as data that can be cloned. */
export interface ErrorData {
  /** The class's name. */
  readonly name: string;
  readonly message: string;
  readonly stack: string | undefined;
  /** Own fields, as far as they can be cloned. */
  readonly fields: Readonly<Record<string, unknown>>;
  /** Another error, if one was the cause. */
  readonly cause: ErrorData | undefined;
}

/** What happened, in a form that can be posted. */
export type Outcome<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly error: ErrorData };

/** Settles with what `work` does, and never rejects. */
export async function outcomeOf<T>(work: () => T | Promise<T>): Promise<Outcome<T>> {
  try {
    return { ok: true, value: await work() };
  } catch (error) {
    return { ok: false, error: describeError(error) };
  }
}

/** The value, or the error thrown again. */
export function unwrap<T>(outcome: Outcome<T>): T {
  if (outcome.ok) return outcome.value;
  throw reviveError(outcome.error);
}

/** An error as data; what is thrown and is no error becomes one. */
export function describeError(error: unknown): ErrorData {
  if (!(error instanceof Error)) return { name: 'Error', message: String(error), stack: undefined, fields: {}, cause: undefined };
  const { name, message, stack, cause } = error;
  const fields = Object.entries(error).filter(([field, value]) => field !== 'cause' && isCloneable(value));
  return { name, message, stack, fields: Object.fromEntries(fields), cause: cause instanceof Error ? describeError(cause) : undefined };
}

/** An error of the class that its name says: one of Pagewise's, of the language's, or a DOMException; else a plain one with that name. */
export function reviveError({ name, message, stack, fields, cause }: ErrorData): Error {
  const options = cause && { cause: reviveError(cause) };
  const known = classes.get(name);
  if (!known && domNames.has(name)) return Object.assign(new DOMException(message, name), options);
  const error = new Error(message, options);
  if (known) Object.setPrototypeOf(error, known.prototype);
  Object.defineProperty(error, 'stack', { value: stack, configurable: true, writable: true });
  Object.assign(error, fields);
  if (error.name !== name) Object.defineProperty(error, 'name', { value: name, configurable: true, writable: true });
  return error;
}

const classes: ReadonlyMap<string, { readonly prototype: Error }> = new Map(
  [
    ...Object.entries(pagewiseErrors),
    ...Object.entries({ Error, TypeError, RangeError, SyntaxError, ReferenceError, EvalError, URIError }),
  ].filter(([, value]) => typeof value === 'function' && (value === Error || value.prototype instanceof Error)),
);

/** Exceptions that hosts throw where Pagewise runs. */
const domNames = new Set([
  'AbortError',
  'TimeoutError',
  'OperationError',
  'InvalidStateError',
  'NotSupportedError',
  'DataCloneError',
  'NetworkError',
]);

function isCloneable(value: unknown): boolean {
  try {
    structuredClone(value);
    return true;
  } catch {
    return false;
  }
}
