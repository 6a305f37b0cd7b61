/** What a layer and a step may be asked for. Pure. */
import { InvalidArgumentError } from '../errors.ts';
import { nullBlock } from './blocks.ts';
import type { KvCacheOptions } from './kv-cache.ts';
import type { BatchEntry, LayerScalars } from './options.ts';
import type { Cascade, PlannedSequence } from './plan.ts';

/** The given scalars as per-call values. @param all whether those that modifications declare must all be there. */
export function checkScalars(given: LayerScalars, declared: Readonly<Record<string, string>>, all: boolean): Record<string, number> {
  const checked: Record<string, number> = {};
  const check = (name: keyof LayerScalars, fits: (value: number) => boolean, expected: string) => {
    const value = given[name];
    if (value === undefined) return;
    if (value === 'none' && (name === 'softcap' || name === 'window')) {
      checked[name] = 0;
      return;
    }
    if (typeof value !== 'number' || !fits(value)) throw new InvalidArgumentError(name, value, expected);
    checked[name] = value;
  };
  const isPositive = (value: number) => value > 0 && Number.isFinite(value);
  check('scale', Number.isFinite, 'a finite number');
  check('softcap', isPositive, 'a positive number, or none');
  check('window', (value) => Number.isInteger(value) && value > 0 && value < 2 ** 31, 'a positive integer, or none');
  check('keepFirst', (value) => Number.isInteger(value) && value >= 0, 'an integer from 0');
  const scalars = given.scalars ?? {};
  for (const [name, value] of Object.entries(scalars)) {
    if (!Object.hasOwn(declared, name)) throw new InvalidArgumentError('scalars', name, `one of those that the modifications declare`);
    if (!Number.isFinite(value)) throw new InvalidArgumentError(`scalars.${name}`, value, 'a finite number');
    checked[name] = value;
  }
  const missing = all ? Object.keys(declared).find((name) => !Object.hasOwn(scalars, name)) : undefined;
  if (missing !== undefined) throw new InvalidArgumentError(`scalars.${missing}`, undefined, 'a number: the modifications declare it');
  return checked;
}

export function checkEntry(entry: BatchEntry, { numBlocks, blockSize }: Pick<KvCacheOptions, 'numBlocks' | 'blockSize'>): void {
  const { sequence, queryLen, causal, positions, bidirectional = [], queryBias } = entry;
  const { length, blocks } = sequence;
  if (!Number.isInteger(queryLen) || queryLen < 0 || queryLen > length)
    throw new InvalidArgumentError('queryLen', queryLen, `an integer from 0 to the sequence's ${length}`);
  // The null block may stand before the new tokens, where blocks were given up, but it takes none of them.
  for (let i = Math.floor((length - queryLen) / blockSize); queryLen > 0 && i < Math.ceil(length / blockSize); i++)
    if (!(blocks[i] > nullBlock && blocks[i] < numBlocks))
      throw new InvalidArgumentError(
        'block',
        blocks[i],
        `from 1 to ${numBlocks - 1} for tokens from ${i * blockSize} on: a block of the pool`,
      );
  if (positions && positions.length !== queryLen)
    throw new InvalidArgumentError('positions', `${positions.length} numbers`, `${queryLen} numbers, one for each new token`);
  if (queryBias && queryBias.length !== queryLen * queryLen)
    throw new InvalidArgumentError('queryBias', `${queryBias.length} numbers`, `${queryLen} x ${queryLen} numbers`);
  let last = 0;
  for (const [begin, end] of bidirectional) {
    if (causal === false || !Number.isInteger(begin) || !Number.isInteger(end) || begin < last || end <= begin || end > length)
      throw new InvalidArgumentError(
        'bidirectional',
        `[${begin}, ${end})`,
        `a range of the ${length} tokens of a causal sequence, behind the one before`,
      );
    last = end;
  }
}

export function checkCascades(cascades: readonly Cascade[], batch: readonly PlannedSequence[], blockSize: number): void {
  let last = 0;
  for (const { first, count, prefixLen } of cascades) {
    const run = batch.slice(first, first + count);
    const blocks = prefixLen / blockSize;
    const fits =
      first >= last &&
      run.length === count &&
      Number.isInteger(blocks) &&
      blocks > 0 &&
      run.every(
        (one) => prefixLen <= one.seqLen - one.queryLen && one.blocks.slice(0, blocks).every((block, i) => block === run[0].blocks[i]),
      );
    if (!fits) {
      const expected = 'a run of sequences that share their first prefixLen keys in whole blocks, all of them before the new tokens';
      throw new InvalidArgumentError('cascade', JSON.stringify({ first, count, prefixLen }), expected);
    }
    last = first + count;
  }
}
