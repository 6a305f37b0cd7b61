import { describe, expect, test } from 'vitest';
import { expectClose, expectEqual, expectThrows } from '../harness/assert.ts';

describe('expectClose', () => {
  test('accepts what is within the tolerance, and special numbers that are the same', () => {
    expectClose([1.01, -2, Number.NaN, Number.POSITIVE_INFINITY, -0], [1, -2.01, Number.NaN, Number.POSITIVE_INFINITY, 0], {
      rtol: 0.0101,
    });
  });

  test('names the first bad index, the worst one and their number', () => {
    expect(() => expectClose([1, 2.5, 9, 4], [1, 2, 3, 4], { atol: 0.1, label: 'logits' })).toThrow(
      'logits: 2 of 4 outside atol 0.1, rtol 0; first [1] is 2.5, expected 2; worst [2] is 9, expected 3 (60.0 times the tolerance)',
    );
  });

  test('takes NaN for a number, a number for NaN, and the wrong infinity as bad', () => {
    expect(() => expectClose([Number.NaN], [1], { atol: 9 })).toThrow('1 of 1');
    expect(() => expectClose([1], [Number.NaN], { atol: 9 })).toThrow('1 of 1');
    expect(() => expectClose([Number.NEGATIVE_INFINITY], [Number.POSITIVE_INFINITY], { atol: 9, rtol: 9 })).toThrow('1 of 1');
    expect(() => expectClose([1], [Number.POSITIVE_INFINITY], { rtol: 0.1 })).toThrow('1 of 1');
  });

  test('compares lengths', () => {
    expect(() => expectClose([1], [1, 2])).toThrow('1 elements, expected 2');
  });
});

describe('expectEqual', () => {
  test('compares plain data deeply', () => {
    expectEqual({ a: [1, { b: Number.NaN }], c: Uint8Array.of(1, 2) }, { c: Uint8Array.of(1, 2), a: [1, { b: Number.NaN }] });
  });

  test.each([
    [{ a: [1, 2] }, { a: [1, 3] }, 'value.a[1] is 2, expected 3'],
    [[1], [1, 2], 'value has 1 elements, expected 2'],
    [{ a: 1 }, { a: 1, b: 2 }, 'value.b is undefined, expected 2'],
    ['1', 1, 'value is "1", expected 1'],
    [null, {}, 'value is null, expected {}'],
  ])('names the first path that differs: %j and %j', (actual, expected, message) => {
    expect(() => expectEqual(actual, expected)).toThrow(message);
  });
});

describe('expectThrows', () => {
  test('gives back the error, thrown or rejected', async () => {
    expect(await expectThrows(RangeError, () => Promise.reject(new RangeError('far out')), /far/)).toBeInstanceOf(RangeError);
  });

  test('fails when nothing is thrown, or something else', async () => {
    await expect(expectThrows(RangeError, () => 1)).rejects.toThrow('nothing was thrown, expected RangeError');
    await expect(expectThrows(RangeError, () => Promise.reject(new TypeError('no')))).rejects.toThrow(
      'threw TypeError: no, expected RangeError',
    );
    const other = () => {
      throw new RangeError('near');
    };
    await expect(expectThrows(RangeError, other, /far/)).rejects.toThrow('threw "near"');
  });
});
