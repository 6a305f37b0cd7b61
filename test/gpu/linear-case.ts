/** Runs a matrix product among poison and garbage, and computes the same in float64. */
import { PlanWriter } from '../../src/attention/plan.ts';
import { defineMatrixProduct, weightDtypeCodes } from '../../src/engine/kernels.ts';
import { type Linear, type LinearArguments, prepareDirect, prepareLinear, prepareProduct } from '../../src/engine/linear.ts';
import type { Product } from '../../src/engine/tiles.ts';
import type { LaunchCache } from '../../src/index.ts';
import { type Random, readFloats, type SpecContext, uploadBuffer } from '../harness/harness.ts';
import { type Format, store } from './formats.ts';
import emulation from './linear-matrix-emulation.wgsl' with { type: 'text' };
import products from './matrix-emulation.wgsl' with { type: 'text' };
import { roundToHalf } from './reference.ts';
import { submit } from './tiny.ts';

/** The kernel by matrices with plain code in place of them, for devices that have none. */
const emulated = defineMatrixProduct({ wgsl: `${products}\n${emulation}`, directives: [], unroll: false });

/** A kernel with its tile; `chosen` is what a model on a graphics processor takes for so many rows. */
export type LinearKernel = Product | 'direct' | 'chosen';

export interface LinearOptions {
  readonly dtype: Format;
  readonly normalized?: boolean;
  readonly swiglu?: boolean;
  readonly accumulate?: boolean;
  readonly gathered?: boolean;
  readonly biased?: boolean;
  /** `halves`: f16 holds inputs and their products with gains exactly, so that rounding to it changes nothing. `giants`: some are beyond it, too. */
  readonly inputs?: 'halves' | 'giants';
}

export interface LinearSize {
  /** Columns of the weights. */
  readonly inputs: number;
  /** Rows of the weights. */
  readonly outputs: number;
  readonly rows: number;
}

export interface LinearRun {
  /** The whole output buffer, gaps and rows beyond the last included. */
  readonly actual: Float32Array;
  readonly expected: Float64Array;
  /** How far each output can be off if inputs, with their gains, are rounded to the nearest f16; in first order. */
  readonly rounding: Float64Array;
}

/** What unwritten outputs hold. */
const poison = -54321;
const epsilon = 0.25;
const largestHalf = 65504;
const garbage = (length: number) => new Float32Array(length).fill(Number.NaN);
const silu = (x: number) => x / (1 + Math.exp(-x));

/** Values that f16 cannot hold, and where in a row. */
const giants: readonly (readonly [number, number])[] = [
  [3, 1e5],
  [14, -7e30],
];

/** Such that others still count beside them in a row's root mean square. */
const lesserGiants: typeof giants = [
  [3, 1e5],
  [14, -2e5],
];

/** Rows lie further apart than they are long; whatever is not of the operands is NaN. */
export async function runLinear(
  t: SpecContext,
  cache: LaunchCache,
  kernel: LinearKernel,
  options: LinearOptions,
  size: LinearSize,
  random: Random,
): Promise<LinearRun> {
  const { dtype, normalized = false, swiglu = false, accumulate = false, gathered = false, biased = false } = options;
  const { inputs, outputs, rows } = size;
  const inputStride = inputs + 4;
  const gainOffset = 8;
  const biasOffset = 3;
  const columns = swiglu ? outputs / 2 : outputs;
  const outputStride = columns + 3;
  const inputRows = gathered ? rows + 7 : rows;
  const gatheredRows = random.permutation(inputRows).slice(0, rows);

  const input = garbage((inputRows + 66) * inputStride);
  for (let row = 0; row < inputRows; row++) {
    const values = random.normals(inputs);
    input.set(options.inputs ? values.map(roundToHalf) : values, row * inputStride);
    if (options.inputs === 'giants')
      for (const [at, value] of normalized ? lesserGiants : giants) input[row * inputStride + (at % inputs)] = value;
  }
  const weights = store(random.normals(outputs * inputs, inputs ** -0.5), dtype);
  const weightBytes = new Uint8Array(weights.bytes.length + 1024).fill(0xff);
  weightBytes.set(weights.bytes);
  const gain = garbage(gainOffset + inputs + 8);
  const gains = random.normals(inputs);
  gain.set(options.inputs ? gains.map((value) => 2 ** Math.round(value)) : gains, gainOffset);
  const bias = garbage(biasOffset + outputs + 4);
  bias.set(random.normals(outputs), biasOffset);
  const before = new Float32Array((rows + 2) * outputStride).fill(poison);
  if (accumulate) for (let row = 0; row < rows; row++) before.set(random.normals(columns), row * outputStride);

  const writer = new PlanWriter(64 + rows);
  writer.begin();
  writer.count('NUM_TOKENS', gathered ? inputRows : rows);
  writer.count('NUM_LOGIT_ROWS', gathered ? rows : 0);
  writer.section('POSITIONS', 5).u32.fill(0xffffffff);
  if (gathered) writer.section('LOGIT_ROWS', rows).u32.set(gatheredRows);

  const output = uploadBuffer(t, before);
  const args = {
    weightDtype: weightDtypeCodes[dtype],
    normalized,
    swiglu,
    accumulate,
    gathered,
    biased,
    input: uploadBuffer(t, input),
    weights: uploadBuffer(t, weightBytes),
    gain: uploadBuffer(t, gain),
    bias: uploadBuffer(t, bias),
    plan: uploadBuffer(t, writer.words),
    output,
    inputSize: inputs,
    outputSize: outputs,
    inputStride,
    outputStride,
    gainOffset,
    biasOffset,
    epsilon,
    numRows: rows,
  };
  const linear = await prepare(cache, kernel, args);
  submit(cache, (pass) => linear.record(pass, rows));

  const expected = Float64Array.from(before);
  const rounding = new Float64Array(before.length);
  for (let row = 0; row < rows; row++) {
    const from = (gathered ? gatheredRows[row] : row) * inputStride;
    const values = Float64Array.from(input.subarray(from, from + inputs));
    const rms = normalized ? Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / inputs + epsilon) : 1;
    if (normalized) for (let i = 0; i < inputs; i++) values[i] *= gain[gainOffset + i];
    // What f16 has to hold is with the gains, and before the division by the root mean square.
    if (options.inputs === 'giants') for (let i = 0; i < inputs; i++) values[i] = Math.max(-largestHalf, Math.min(largestHalf, values[i]));
    if (normalized) for (let i = 0; i < inputs; i++) values[i] /= rms;
    const errors = new Float64Array(outputs);
    const products = Array.from({ length: outputs }, (_, j) => {
      let sum = biased ? bias[biasOffset + j] : 0;
      for (let i = 0; i < inputs; i++) {
        const product = values[i] * weights.values[j * inputs + i];
        sum += product;
        errors[j] += 2 ** -11 * Math.abs(product);
      }
      return sum;
    });
    for (let j = 0; j < columns; j++) {
      const value = swiglu ? silu(products[2 * j]) * products[2 * j + 1] : products[j];
      const at = row * outputStride + j;
      expected[at] = accumulate ? before[at] + value : value;
      // The slope of silu is at most 1.1.
      const ofGate = 1.1 * errors[2 * j] * (Math.abs(products[2 * j + 1]) + errors[2 * j + 1]);
      rounding[at] = swiglu ? ofGate + Math.abs(silu(products[2 * j])) * errors[2 * j + 1] : errors[j];
    }
  }
  return { actual: await readFloats(t.gpu, output), expected, rounding };
}

function prepare(cache: LaunchCache, kernel: LinearKernel, args: LinearArguments): Promise<Linear> {
  if (kernel === 'direct') return prepareDirect(cache, args);
  return kernel === 'chosen'
    ? prepareLinear(cache, args, 128)
    : prepareProduct(cache, kernel, args, cache.gpu.features.subgroupMatrices ? undefined : emulated);
}
