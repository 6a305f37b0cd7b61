import { describe, expect, it } from 'vitest';
import { createStopText } from '../../src/engine/stop-text.ts';
import { random } from '../harness/random.ts';

/** What comes out of pieces: the text of each push, then of the flush. */
function run(stops: readonly string[], pieces: readonly string[]) {
  const stop = createStopText(stops);
  const given: string[] = [];
  for (const piece of pieces) {
    const { text, stopped } = stop.push(piece);
    given.push(text);
    if (stopped) return { given, stopped };
  }
  return { given: [...given, stop.flush()], stopped: false };
}

describe('stop strings', () => {
  it('end the text, wherever the pieces are cut', () => {
    expect(run(['END'], ['one EN', 'D two'])).toEqual({ given: ['one ', ''], stopped: true });
    expect(run(['END'], ['oneEND'])).toEqual({ given: ['one'], stopped: true });
    expect(run(['END'], ['E', 'N', 'D'])).toEqual({ given: ['', '', ''], stopped: true });
    expect(run(['b'], ['a', 'b', 'c'])).toEqual({ given: ['a', ''], stopped: true });
  });

  it('hold back what may become one, and no more', () => {
    expect(run(['END'], ['an E', 'nd'])).toEqual({ given: ['an ', 'End', ''], stopped: false });
    expect(run(['aab'], ['aaa', 'ab'])).toEqual({ given: ['a', 'a'], stopped: true });
    expect(run(['\n\n'], ['a\n', 'b\n'])).toEqual({ given: ['a', '\nb', '\n'], stopped: false });
    expect(run([], ['a', 'b'])).toEqual({ given: ['a', 'b', ''], stopped: false });
  });

  it('count by where they begin, where several are there', () => {
    expect(run(['cd', 'bcde'], ['abcdef'])).toEqual({ given: ['a'], stopped: true });
    expect(run(['xyz', 'y'], ['wxy'])).toEqual({ given: ['wx'], stopped: true });
  });

  it('do not count where they are complete early, and do where they end later', () => {
    const early = (stops: readonly string[], first: string, ...later: readonly string[]) => {
      const stop = createStopText(stops);
      return [...first].map((piece) => stop.push(piece, true)).concat(later.map((piece) => stop.push(piece)));
    };
    const text = (given: ReturnType<typeof early>) => [given.map((one) => one.text).join(''), given.at(-1)?.stopped];
    expect(text(early(['b'], 'abab', 'a', 'cb'))).toEqual(['ababac', true]);
    expect(text(early(['END'], 'one END', 'x'))).toEqual(['one ENDx', false]);
    expect(text(early(['END'], 'one EN', 'Dx'))).toEqual(['one ', true]);
    // The end of one that did not count may be the beginning of another.
    expect(text(early(['aa'], 'aa', 'a'))).toEqual(['a', true]);
    expect(text(early(['aba'], 'xaba', 'ba'))).toEqual(['xab', true]);
    // Of one that is complete early and one that is not, the other counts.
    expect(text(early(['bc', 'cd'], 'abc', 'd'))).toEqual(['ab', true]);
    expect(text(early(['bcde', 'c'], 'abc', 'd', 'x', 'c'))).toEqual(['abcdx', true]);
  });

  it.each([1, 2, 3])('give all text before the first one and never a part of it, seed %i', (seed) => {
    const numbers = random(seed);
    const word = (length: number) => Array.from({ length }, () => 'ab'[numbers.integer(2)]).join('');
    for (let run = 0; run < 600; run++) {
      const fewest = run % 2 === 0 ? 0 : numbers.integer(20);
      const stops = Array.from({ length: 1 + numbers.integer(2) }, () => word(2 + numbers.integer(4)));
      const text = word(40);
      const stop = createStopText(stops);
      let given = '';
      let pushed = '';
      let stopped = false;
      let early = 0;
      for (let at = 0; at < text.length && !stopped; ) {
        const piece = text.slice(at, at + 1 + numbers.integer(3));
        at += piece.length;
        pushed += piece;
        const isEarly = at <= fewest;
        if (isEarly) early = at;
        const result = stop.push(piece, isEarly);
        given += result.text;
        stopped = result.stopped;
        const starts = stops.map((one) => pushed.indexOf(one, early - one.length + 1)).filter((start) => start >= 0);
        expect(stopped).toBe(starts.length > 0);
        if (stopped) expect(given).toBe(pushed.slice(0, Math.min(...starts)));
        else expect(pushed.startsWith(given)).toBe(true);
      }
      if (!stopped) expect(given + stop.flush()).toBe(text);
      for (const one of stops) expect(given.indexOf(one, early - one.length + 1)).toBe(-1);
    }
  });
});
