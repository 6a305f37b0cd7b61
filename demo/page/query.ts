/**
 * The address's parameters: which model, and how to run it. For demonstrations and tests.
 */
import { InvalidArgumentError, kvDtypes } from 'pagewise';
import type { EngineOptions } from 'pagewise/engine';
import { numberRules, parseNumber } from '../shared/numbers.ts';

/** What the address asks for. */
export interface PageQuery {
  /** The folder of the model's files. */
  readonly model: URL;
  readonly engine: Pick<EngineOptions, 'kvDtype' | 'blockSize' | 'launchCache' | 'runAhead'>;
}

/**
 * Reads `model`, `kv-dtype`, `block-size`, `launch-cache` and `run-ahead`.
 *
 * @param location the page's address; a relative model counts from it.
 * @throws {InvalidArgumentError} that names the parameter and what it may be.
 */
export function readQuery(location: URL): PageQuery {
  const parameters = location.searchParams;
  const choice = <T extends string>(name: string, choices: readonly T[]): T | undefined => {
    const text = parameters.get(name);
    if (text === null) return undefined;
    return choices.find((candidate) => candidate === text) ?? refuse(name, text, choices.join(' or '));
  };
  const integer = (name: string, rule: (typeof numberRules)['blockSize' | 'runAhead']): number | undefined => {
    const text = parameters.get(name);
    return text === null ? undefined : (parseNumber(text, rule) ?? refuse(name, text, rule.expected));
  };
  const model = parameters.get('model') ?? 'model/';
  return {
    model: URL.parse(model, location) ?? refuse('model', model, 'the URL of a folder'),
    engine: {
      kvDtype: choice('kv-dtype', kvDtypes),
      blockSize: integer('block-size', numberRules.blockSize),
      launchCache: choice('launch-cache', ['on', 'off', 'verify']),
      runAhead: integer('run-ahead', numberRules.runAhead),
    },
  };
}

function refuse(name: string, value: string, expected: string): never {
  throw new InvalidArgumentError(`"${name}" in this page's address`, value, expected);
}
