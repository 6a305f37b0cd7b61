import { describe, expect, test } from 'vitest';
import { draft } from '../../src/engine/prompt-lookup.ts';
import { random } from '../harness/random.ts';

const lookup = { numTokens: 4, maxNgram: 3, minNgram: 1 };

describe('a draft', () => {
  test.each([
    ['what followed the last time', [1, 2, 3, 4, 5, 6, 7, 1, 2], [3, 4, 5, 6]],
    ['what followed the longest run, though a shorter one is nearer', [1, 2, 3, 9, 9, 9, 9, 3, 8, 8, 8, 8, 1, 2, 3], [9, 9, 9, 9]],
    ['of several places the latest', [1, 2, 5, 5, 5, 5, 1, 2, 6, 6, 6, 6, 1, 2], [6, 6, 6, 6]],
    ['an earlier place where the latest has too little behind it', [7, 1, 2, 3, 4, 9, 7, 7], [1, 2, 3, 4]],
    ['no more than there is', [4, 1, 4], [1, 4]],
    ['a repetition, as far as it goes', [8, 8, 8, 8, 8], [8, 8]],
    ['nothing where nothing stood before', [1, 2, 3, 4], []],
    ['nothing of one token', [1], []],
    ['nothing of none', [], []],
  ])('is %s', (_, ids, expected) => {
    expect(draft(ids, lookup)).toEqual(expected);
  });

  test('needs a run of minNgram', () => {
    const ids = [1, 2, 3, 9, 3];
    expect(draft(ids, lookup)).toEqual([9, 3]);
    expect(draft(ids, { ...lookup, minNgram: 2 })).toEqual([]);
    expect(draft([1, 2, 3, 9, 2, 3], { ...lookup, minNgram: 2 })).toEqual([9, 2, 3]);
  });

  test('does not look for longer runs than maxNgram', () => {
    // Runs of one all count alike: the latest.
    const ids = [1, 2, 5, 5, 5, 5, 9, 2, 6, 6, 6, 6, 1, 2];
    expect(draft(ids, { ...lookup, maxNgram: 1 })).toEqual([6, 6, 6, 6]);
    expect(draft(ids, { ...lookup, maxNgram: 2 })).toEqual([5, 5, 5, 5]);
  });

  /** By its definition, trying every run length and every place. */
  function bruteForce(ids: readonly number[], { numTokens, maxNgram, minNgram }: typeof lookup): number[] {
    for (let n = maxNgram; n >= minNgram; n--) {
      if (n >= ids.length) continue;
      const suffix = ids.slice(-n).join();
      const places: number[] = [];
      for (let start = 0; start + n < ids.length; start++) if (ids.slice(start, start + n).join() === suffix) places.push(start + n);
      if (places.length === 0) continue;
      const full = places.filter((place) => ids.length - place >= numTokens);
      const place = full.at(-1) ?? places[0];
      return ids.slice(place, place + numTokens);
    }
    return [];
  }

  test.each([1, 2, 3, 4])('is what trying everything gives, seed %i', (seed) => {
    const numbers = random(seed);
    let found = 0;
    for (let round = 0; round < 2000; round++) {
      const vocabulary = 1 + numbers.integer(6);
      const ids = Array.from({ length: numbers.integer(40) }, () => numbers.integer(vocabulary));
      const minNgram = 1 + numbers.integer(3);
      const options = { numTokens: 1 + numbers.integer(8), minNgram, maxNgram: minNgram + numbers.integer(4) };
      const expected = bruteForce(ids, options);
      expect(draft(ids, options), `${ids} ${JSON.stringify(options)}`).toEqual(expected);
      if (expected.length > 0) found++;
    }
    expect(found).toBeGreaterThan(500);
  });
});
