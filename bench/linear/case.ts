import { type Gpu, LaunchCache } from 'pagewise';
import { PlanWriter } from '../../src/attention/plan.ts';
import { weightDtypeCodes } from '../../src/engine/kernels.ts';
import { chooseProducts, type Linear, type LinearArguments, prepareLinear, prepareProduct } from '../../src/engine/linear.ts';
import type { Product } from '../../src/engine/tiles.ts';
import { fillHalves, fillNormals, hashedHalf, hashedNormal } from '../attention/hash.ts';
import type { PassTimer } from '../timestamps.ts';

/** A matrix of a model, with what its product does besides. */
export interface LinearShape {
  readonly name: string;
  readonly inputs: number;
  readonly outputs: number;
  readonly normalized?: boolean;
  readonly swiglu?: boolean;
  readonly accumulate?: boolean;
  readonly gathered?: boolean;
}

export interface LinearCase {
  readonly shape: LinearShape;
  readonly rows: number;
  readonly dtype: 'f16' | 'bf16';
  /** One kernel; what a model would take where it is left out. */
  readonly product?: Product;
  /** False: what it would take where there are no matrices. */
  readonly subgroupMatrices?: false;
}

const inputSeed = 0x9000_0000;
const gainSeed = 0x5000_0000;
const weightSeed = (copy: number) => 0x1000_0000 + copy * 7_777_777;
const epsilon = 1e-5;
const most = 64;

const silu = (x: number) => x / (1 + Math.exp(-x));

/** The kernel of a case; undefined where it is the one for adapters that compute on the CPU. */
export function productOf(gpu: Gpu, { shape, rows, dtype, product, subgroupMatrices }: LinearCase): Product | undefined {
  if (product || gpu.adapter.software) return product;
  return chooseProducts(
    gpu,
    { inputSize: shape.inputs, outputSize: shape.outputs, weightDtype: weightDtypeCodes[dtype] },
    rows,
    subgroupMatrices,
  ).at(-1);
}

/** The f16 next to a value in its range, ties to even: its unit is 2^-24 or, above 2^-14, 2^-10 of the power of two below. */
function nearestHalf(value: number): number {
  const exponent = Math.max(Math.floor(Math.log2(Math.abs(value))), -14);
  const units = value / 2 ** (exponent - 10);
  const nearest = Math.round(units);
  const even = Math.abs(units % 1) === 0.5 && nearest % 2 !== 0 ? nearest - 1 : nearest;
  return even * 2 ** (exponent - 10);
}

/** A case set up on the device: random operands, and copies of the matrix enough that together they exceed the last-level cache. */
export class OpenLinear {
  readonly #gpu: Gpu;
  readonly #case: LinearCase;
  readonly #cache: LaunchCache;
  readonly #buffers: GPUBuffer[] = [];
  readonly #input: GPUBuffer;
  readonly #output: GPUBuffer;
  readonly #gain: GPUBuffer;
  readonly #plan: GPUBuffer;
  readonly #weights: readonly GPUBuffer[];
  #products: readonly Linear[] = [];

  static async open(gpu: Gpu, one: LinearCase, cacheBytes: number): Promise<OpenLinear> {
    const open = new OpenLinear(gpu, one, cacheBytes);
    try {
      await open.#prepare();
      return open;
    } catch (error) {
      open.destroy();
      throw error;
    }
  }

  private constructor(gpu: Gpu, one: LinearCase, cacheBytes: number) {
    const { shape, rows } = one;
    this.#gpu = gpu;
    this.#case = one;
    this.#cache = new LaunchCache(gpu);
    this.#input = this.#buffer(rows * shape.inputs * 4);
    this.#output = this.#buffer(rows * this.#outputs * 4);
    this.#gain = this.#buffer(shape.inputs * 4);
    const writer = new PlanWriter(64 + rows);
    writer.begin();
    writer.count('NUM_TOKENS', rows);
    writer.count('NUM_LOGIT_ROWS', rows);
    writer.section('LOGIT_ROWS', rows).u32.forEach((_, i, all) => {
      all[i] = i;
    });
    this.#plan = this.#buffer(writer.words.byteLength);
    gpu.device.queue.writeBuffer(this.#plan, 0, writer.words);
    const copies = Math.min(most, Math.max(1, Math.ceil(cacheBytes / this.#weightBytes)));
    this.#weights = Array.from({ length: copies }, () => this.#buffer(this.#weightBytes));
  }

  get #weightBytes(): number {
    return this.#case.shape.inputs * this.#case.shape.outputs * 2;
  }

  /** Values of an output row. */
  get #outputs(): number {
    return this.#case.shape.outputs / (this.#case.shape.swiglu ? 2 : 1);
  }

  #buffer(size: number): GPUBuffer {
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    const made = this.#gpu.device.createBuffer({ label: 'bench', size, usage });
    this.#buffers.push(made);
    return made;
  }

  async #prepare(): Promise<void> {
    const { shape, rows, dtype, product } = this.#case;
    await fillNormals(this.#gpu, this.#input, inputSeed);
    await fillNormals(this.#gpu, this.#gain, gainSeed);
    for (const [copy, weights] of this.#weights.entries()) await fillHalves(this.#gpu, weights, weightSeed(copy), dtype);
    const { inputs, outputs, normalized = false, swiglu = false, accumulate = false, gathered = false } = shape;
    const args: Omit<LinearArguments, 'weights'> = {
      weightDtype: weightDtypeCodes[dtype],
      ...{ normalized, swiglu, accumulate, gathered, biased: false },
      ...{ input: this.#input, gain: this.#gain, bias: this.#gain, plan: this.#plan, output: this.#output },
      ...{ inputSize: inputs, outputSize: outputs, inputStride: inputs, outputStride: this.#outputs },
      ...{ gainOffset: 0, biasOffset: 0, epsilon, numRows: rows },
    };
    const prepare = (weights: GPUBuffer) => {
      if (product) return prepareProduct(this.#cache, product, { ...args, weights });
      const onFallback = (_: string, reason: unknown): never => {
        throw reason;
      };
      return prepareLinear(this.#cache, { ...args, weights }, rows, { subgroupMatrices: this.#case.subgroupMatrices, onFallback });
    };
    this.#products = await Promise.all(this.#weights.map(prepare));
  }

  /** Multiplies `count` times, in one pass, going round the copies. @returns milliseconds for each */
  async time(timer: PassTimer, count: number): Promise<number> {
    const record = (pass: GPUComputePassEncoder) => {
      for (let i = 0; i < count; i++) this.#products[i % this.#products.length].record(pass, this.#case.rows);
    };
    return (await timer.time(record, (commands) => this.#cache.submit([commands]))) / count;
  }

  /** Bytes that must be read and written once. */
  get bytes(): number {
    const { shape, rows } = this.#case;
    return this.#weightBytes + 4 * rows * (shape.inputs + this.#outputs * (shape.accumulate ? 2 : 1));
  }

  /** Multiplications and additions. */
  get operations(): number {
    const { shape, rows } = this.#case;
    return 2 * rows * shape.inputs * shape.outputs;
  }

  /** Whether the kernel is the one by matrices. */
  get byMatrices(): boolean {
    return productOf(this.#gpu, this.#case)?.kernel === 'matmul by matrices';
  }

  /** Holds a sample of the outputs of the first copy against float64. @throws {Error} with the first wrong value */
  async check(): Promise<void> {
    const { device } = this.#gpu;
    const { shape, rows } = this.#case;
    const encoder = device.createCommandEncoder();
    encoder.clearBuffer(this.#output);
    const pass = encoder.beginComputePass();
    this.#products[0].record(pass, rows);
    pass.end();
    const chosen = [...new Set([0, rows >> 1, (rows * 5) >> 3, rows - 1])];
    const staging = device.createBuffer({
      size: chosen.length * this.#outputs * 4,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    chosen.forEach((row, i) => {
      encoder.copyBufferToBuffer(this.#output, row * this.#outputs * 4, staging, i * this.#outputs * 4, this.#outputs * 4);
    });
    this.#cache.submit([encoder.finish()]);
    await staging.mapAsync(GPUMapMode.READ);
    const actual = new Float32Array(staging.getMappedRange());
    for (const [i, row] of chosen.entries()) {
      const values = this.#inputRow(row);
      for (const column of sampledColumns(this.#outputs)) {
        const value = actual[i * this.#outputs + column];
        const expected = this.#reference(values, column);
        // Of the magnitude that sums of so many products have.
        const scale = Math.sqrt(shape.inputs) * (shape.swiglu ? Math.sqrt(shape.inputs) : 1);
        // Matrix units cut sums off, where others round.
        if (Math.abs(value - expected) <= (this.byMatrices ? 1e-4 : 1e-5) * scale + 1e-4 * Math.abs(expected)) continue;
        throw new Error(`${shape.name}, ${rows} rows is wrong: row ${row}, column ${column} is ${value}, not ${expected}.`);
      }
    }
    staging.destroy();
  }

  /** f64 [inputs]: what the row is multiplied as. */
  #inputRow(row: number): Float64Array {
    const { inputs, normalized } = this.#case.shape;
    const values = Float64Array.from({ length: inputs }, (_, k) => hashedNormal(inputSeed + row * inputs + k));
    if (!normalized) return values;
    const rms = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / inputs + epsilon);
    const rounded = this.byMatrices ? nearestHalf : (value: number) => value;
    return values.map((value, k) => rounded(value * hashedNormal(gainSeed + k)) / rms);
  }

  #reference(values: Float64Array, column: number): number {
    const { inputs, swiglu } = this.#case.shape;
    const product = (row: number) =>
      values.reduce((sum, value, k) => sum + value * hashedHalf(this.#case.dtype, 2 * weightSeed(0) + row * inputs + k), 0);
    return swiglu ? silu(product(2 * column)) * product(2 * column + 1) : product(column);
  }

  destroy(): void {
    this.#cache.destroy();
    for (const buffer of this.#buffers) buffer.destroy();
  }
}

/** The first, the last, and some between. */
function sampledColumns(count: number): readonly number[] {
  return [...new Set([0, 1, ...Array.from({ length: 12 }, (_, i) => Math.floor(((i + 0.37) * count) / 12)), count - 1])].filter(
    (c) => c < count,
  );
}
