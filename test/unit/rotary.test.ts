import { describe, expect, it } from 'vitest';
import type { RopeConfig } from '../../src/engine/config.ts';
import { attentionFactor, rotaryFrequencies, rotaryTable } from '../../src/engine/rotary.ts';

type Yarn = Extract<RopeConfig, { type: 'yarn' }>;

const yarn = (changes: Partial<Yarn> = {}): Yarn => ({
  type: 'yarn',
  theta: 10000,
  factor: 4,
  originalContextLength: 128,
  betaFast: 32,
  betaSlow: 1,
  truncate: true,
  attentionFactor: undefined,
  mscale: undefined,
  mscaleAllDim: undefined,
  ...changes,
});

const llama3 = (originalContextLength: number): RopeConfig => ({
  type: 'llama3',
  theta: 500000,
  factor: 8,
  lowFrequencyFactor: 1,
  highFrequencyFactor: 4,
  originalContextLength,
});

function expectClose(actual: ArrayLike<number>, expected: readonly number[], relative = 4e-7): void {
  expect(actual).toHaveLength(expected.length);
  for (const [index, value] of expected.entries()) {
    expect(Math.abs(actual[index]! - value), `element ${index}: ${actual[index]} against ${value}`).toBeLessThanOrEqual(
      relative * Math.abs(value),
    );
  }
}

describe('rotaryTable', () => {
  it('holds cos and sin of position times frequency', () => {
    // Base 100 and heads of 4: frequencies 1 and 1/10.
    const table = rotaryTable({ type: 'default', theta: 100 }, 4, 3);
    const expected = [1, 0, 1, 0, 0.5403023, 0.84147098, 0.99500417, 0.099833417, -0.41614684, 0.90929743, 0.98006658, 0.19866933];
    expectClose(table, expected, 1e-7);
  });

  it('stays exact far out', () => {
    // cos and sin of 99999 and of 9999.9 radians; an angle in single precision would be wrong in the third digit.
    const table = rotaryTable({ type: 'default', theta: 100 }, 4, 100000);
    expectClose(table.subarray(99999 * 4), [-0.50987537, 0.86024828, -0.97790909, -0.20903067], 1e-7);
  });

  it('is multiplied by the attention factor', () => {
    const table = rotaryTable(yarn({ attentionFactor: 0.5 }), 16, 2);
    expectClose(table.subarray(0, 4), [0.5, 0, 0.5, 0]);
    expectClose(table.subarray(16, 18), [0.5 * Math.cos(1), 0.5 * Math.sin(1)]);
  });

  it('of length 0 is empty', () => {
    expect(rotaryTable({ type: 'default', theta: 100 }, 4, 0)).toHaveLength(0);
  });
});

describe('frequencies', () => {
  it('default: powers of the base', () => {
    expectClose(rotaryFrequencies({ type: 'default', theta: 10000 }, 8), [1, 0.1, 0.01, 0.001]);
  });

  it('linear: all divided by the factor', () => {
    expectClose(rotaryFrequencies({ type: 'linear', theta: 10000, factor: 4 }, 8), [0.25, 0.025, 0.0025, 0.00025]);
  });

  it('YaRN by hand', () => {
    // Plane of 32 rotations: 16 ln(128 / 64π) / (2 ln 10000) = -0.39, floor and cut: 0. Plane of one: 2.62, up: 3. So the second plane,
    // 10000^(-1/8), is stretched by a third: times 1/3 / 4 + 2/3 = 3/4; the third plane, 1/10, by two thirds: times 1/2.
    expectClose(rotaryFrequencies(yarn(), 16).subarray(0, 4), [1, 0.75 * 10000 ** -0.125, 0.05, 10000 ** -0.375 / 4]);
  });

  // What `_compute_..._parameters` of transformers 5.17 give, in single precision.
  it.each<[string, RopeConfig, number[]]>([
    [
      'Llama 3, context 64',
      llama3(64),
      [1, 0.079403013, 0.0047007538, 9.1158313e-4, 1.7677668e-4, 3.4281024e-5, 6.6478706e-6, 1.2891732e-6],
    ],
    ['Llama 3.1', llama3(8192), [1, 0.19392276, 0.037606031, 0.0072926651, 5.2484602e-4, 3.4281024e-5, 6.6478706e-6, 1.2891732e-6]],
    ['YaRN', yarn(), [1, 0.23717082, 0.05, 0.0079056947, 0.0025, 7.9056947e-4, 2.5e-4, 7.9056947e-5]],
    [
      'YaRN, ends not rounded',
      yarn({ truncate: false }),
      [1, 0.22563748, 0.04270567, 0.0079056947, 0.0025, 7.9056947e-4, 2.5e-4, 7.9056947e-5],
    ],
    [
      'YaRN, other ends',
      yarn({ truncate: false, betaFast: 8, betaSlow: 2 }),
      [1, 0.27917454, 0.025996597, 0.0079056947, 0.0025, 7.9056947e-4, 2.5e-4, 7.9056947e-5],
    ],
    [
      'YaRN, factor 40 of 4096',
      yarn({ factor: 40, originalContextLength: 4096 }),
      [1, 0.31622776, 0.1, 0.023914725, 0.0051249997, 8.4986218e-4, 2.5e-5, 7.9056945e-6],
    ],
    [
      'YaRN, both ends at one plane',
      yarn({ originalContextLength: 8, betaFast: 8 }),
      [1, 0.079056941, 0.025, 0.0079056947, 0.0025, 7.9056947e-4, 2.5e-4, 7.9056947e-5],
    ],
  ])('%s', (_, rope, expected) => {
    expectClose(rotaryFrequencies(rope, 16), expected);
  });
});

describe('attentionFactor', () => {
  it.each<[RopeConfig, number]>([
    [{ type: 'default', theta: 10000 }, 1],
    [llama3(64), 1],
    [yarn(), 1.138629436111989],
    [yarn({ factor: 1 }), 1],
    [yarn({ factor: 40, mscale: 1, mscaleAllDim: 0.5 }), 1.1557219901962608],
    [yarn({ mscale: 1 }), 1.138629436111989],
    [yarn({ mscale: 0, mscaleAllDim: 1 }), 1.138629436111989],
    [yarn({ attentionFactor: 0.8, mscale: 1, mscaleAllDim: 1 }), 0.8],
  ])('%j: %d', (rope, factor) => {
    expect(attentionFactor(rope)).toBeCloseTo(factor, 12);
  });
});
