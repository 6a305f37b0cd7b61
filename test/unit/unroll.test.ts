import { describe, expect, it } from 'vitest';
import { constantsOf, evaluate, unrollLoops } from '../../src/launch/unroll.ts';

describe('the evaluation of WGSL constants', () => {
  it('follows precedence and other constants', () => {
    const constants = new Map([
      ['a', '3u'],
      ['b', 'a * 2u + 1u'],
      ['yes', 'true'],
    ]);
    expect(evaluate('b', constants)).toBe(7);
    expect(evaluate('(a + 1u) * b / 5u - 1u', constants)).toBe(4);
    expect(evaluate('max(1u, min(a, b)) - 2u', constants)).toBe(1);
    expect(evaluate('select(a, b, yes)', constants)).toBe(7);
    expect(evaluate('b >> (a - 1u)', constants)).toBe(1);
    expect(() => evaluate('c', constants)).toThrow('No constant "c"');
    expect(() => evaluate('a b', constants)).toThrow('goes on');
  });

  it('finds the constants of a text', () => {
    expect([...constantsOf('const a = 3u;\nconst b: u32 = a + 1u;\nlet c = 1u;')]).toEqual([
      ['a', '3u'],
      ['b', 'a + 1u'],
    ]);
  });
});

describe('loops written out', () => {
  it('have a block with a constant for each round, also within each other', () => {
    const text = [
      'const n = 2u;',
      'fn f() {',
      '  for (var i = 0u; i < n; i++) { // unrolled',
      '    for (var j = 0u; j < n + 1u; j++) { // unrolled',
      '      a[i * 3u + j] = 0.0;',
      '    }',
      '  }',
      '}',
    ].join('\n');
    const written = unrollLoops(text);
    expect(written).not.toContain('for (');
    expect(written.match(/a\[/g)).toHaveLength(6);
    expect(written.match(/const j = 2u;/g)).toHaveLength(2);
    expect(written.split('{').length).toBe(written.split('}').length);
    expect(written.endsWith('\n}')).toBe(true);
  });

  it('may count by the constant of the loop around them', () => {
    const text =
      'const n = 4u;\nfor (var i = 0u; i < 2u; i++) { // unrolled\n  for (var j = 0u; j < n >> (i + 1u); j++) { // unrolled\n    x();\n  }\n}';
    expect(unrollLoops(text).match(/x\(\)/g)).toHaveLength(3);
  });

  it('may stay loops, as a constant says', () => {
    const loop = (constant: string) => `${constant}\nfor (var i = 0u; i < 2u; i++) { // unrolled if gpu\n  x();\n}`;
    expect(unrollLoops(loop('const gpu = true;')).match(/x\(\)/g)).toHaveLength(2);
    expect(unrollLoops(loop('const gpu = false;'))).toBe('const gpu = false;\nfor (var i = 0u; i < 2u; i++) {\n  x();\n}');
    expect(() => unrollLoops(loop('const gpu = 1u;'))).toThrow('"gpu" is no constant');
  });

  it('leave other loops, and loops of no round, alone', () => {
    const loop = 'for (var i = 0u; i < n; i++) {\n}';
    expect(unrollLoops(loop)).toBe(loop);
    expect(unrollLoops('const n = 0u;\nfor (var i = 0u; i < n; i++) { // unrolled\n  x();\n}\ny();')).toBe('const n = 0u;\n\ny();');
  });

  it('complain of a count that is no constant', () => {
    expect(() => unrollLoops('for (var i = 0u; i < n; i++) { // unrolled\n}')).toThrow('No constant "n"');
  });
});
