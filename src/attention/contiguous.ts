import { InvalidArgumentError, LimitExceededError } from '../errors.ts';
import { causeOf, type Gpu } from '../gpu.ts';
import { LaunchCache } from '../launch/cache.ts';
import { isBuffer } from '../launch/checks.ts';
import type { BufferArgument } from '../launch/kernel.ts';
import { PagedAttention } from './attention.ts';
import { KvCache, type Sequence } from './kv-cache.ts';
import { checkPositive, type KvDtype } from './layout.ts';
import type { BatchEntry, LayerOptions, LayerScalars } from './options.ts';

/** f32 values: on the host, or in a buffer with the usage STORAGE, from its start on. */
export type AttentionBuffer = Float32Array | GPUBuffer;

export interface AttentionOptions extends LayerScalars, Pick<LayerOptions, 'alibi' | 'sinks' | 'modifications' | 'data'> {
  /** [queries][numHeads][headDim]: the queries of all sequences, one sequence after the other. */
  readonly query: AttentionBuffer;
  /** [keys][numKvHeads][headDim]: the keys of all sequences, one sequence after the other. */
  readonly key: AttentionBuffer;
  readonly value: AttentionBuffer;
  readonly numHeads: number;
  /** Default: `numHeads`. */
  readonly numKvHeads?: number;
  readonly headDim: number;
  /** With `seqLens`, for a batch: where each sequence's queries begin, and at the end how many there are. Default: one sequence that has all. */
  readonly queryStartLoc?: ArrayLike<number>;
  /** Keys of each sequence. */
  readonly seqLens?: ArrayLike<number>;
  /** True (default): a sequence's queries belong to its last keys, and see no later ones. False: every query sees every key. */
  readonly causal?: boolean;
  /** How keys and values are kept while the kernels run; default f32. Smaller ones take less memory and round. */
  readonly kvDtype?: KvDtype;
  /** A row's result does not depend, bit by bit, on what else is in the batch. Default false. */
  readonly deterministic?: boolean;
  /** Returns the log-sum-exp of each row, too. Default false. */
  readonly logSumExp?: boolean;
  /** `array` (default): reads the results back. `buffer`: leaves them on the GPU, in buffers that belong to the caller. */
  readonly returns?: 'array' | 'buffer';
}

export interface AttentionResult<T> {
  /** f32 [queries][numHeads][headDim]. */
  readonly output: T;
  /** f32 [queries][numHeads]; undefined unless asked for. */
  readonly logSumExp: T | undefined;
}

/** Keys and values are copied into blocks of so many tokens. */
const blockSize = 64;

/** One for each device and shape: what shapes differ in is frozen in a launch cache. */
const launchCaches = new WeakMap<GPUDevice, Map<string, LaunchCache>>();

/**
 * Attention over plain tensors, for one sequence or a batch of sequences of any lengths: copies keys and values into a paged cache of its own,
 * runs the same kernels as `PagedAttention`, and frees what it made. Pipelines stay, with a small buffer of arguments for each shape, so
 * that a second call with the same heads, dtype and modifications compiles nothing; lengths and scalars are no part of that.
 *
 * @throws {InvalidArgumentError} for tensors, lengths or options that do not fit together.
 * @throws {LimitExceededError} when the keys and values do not fit into what the device can bind.
 * @throws {AttentionModificationError} {DeviceLostError}
 */
export function attention(gpu: Gpu, options: AttentionOptions & { readonly returns: 'buffer' }): Promise<AttentionResult<GPUBuffer>>;
export function attention(
  gpu: Gpu,
  options: AttentionOptions & { readonly returns?: 'array' },
): Promise<AttentionResult<Float32Array<ArrayBuffer>>>;
export async function attention(gpu: Gpu, options: AttentionOptions): Promise<AttentionResult<GPUBuffer | Float32Array<ArrayBuffer>>> {
  const shape = checkShape(gpu, options);
  const owned = new OwnedBuffers(gpu.device);
  try {
    const results = await compute(gpu, options, shape, owned);
    if (options.returns !== 'buffer') return await read(gpu, options, shape, owned, results);
    owned.release(results.output, results.logSumExp);
    return results;
  } catch (error) {
    throw await causeOf(gpu, error);
  } finally {
    owned.destroy();
  }
}

/** What the options come to, checked. */
interface Shape {
  readonly numKvHeads: number;
  readonly queryLens: readonly number[];
  readonly seqLens: readonly number[];
  readonly numQueries: number;
  readonly numKeys: number;
}

/** What a call makes, and frees at its end. */
class OwnedBuffers {
  readonly #device: GPUDevice;
  readonly #owned: { destroy(): void }[] = [];

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  create(label: string, floats: number, usage: GPUBufferUsageFlags): GPUBuffer {
    return this.own(this.#device.createBuffer({ label, size: Math.max(floats, 1) * 4, usage }));
  }

  own<T extends { destroy(): void }>(value: T): T {
    this.#owned.push(value);
    return value;
  }

  /** The first `floats` values of the caller's buffer, or a buffer with the caller's values. */
  upload(label: string, values: AttentionBuffer, floats: number): BufferArgument {
    if (!(values instanceof Float32Array)) return { buffer: values, offset: 0, size: floats * 4 };
    const buffer = this.create(label, values.length, GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST);
    this.#device.queue.writeBuffer(buffer, 0, values as Float32Array<ArrayBuffer>);
    return buffer;
  }

  release(...kept: readonly (GPUBuffer | undefined)[]): void {
    for (const value of kept) if (value) this.#owned.splice(this.#owned.indexOf(value), 1);
  }

  destroy(): void {
    for (const value of this.#owned.splice(0)) value.destroy();
  }
}

/** Runs the kernels. */
async function compute(gpu: Gpu, options: AttentionOptions, shape: Shape, owned: OwnedBuffers): Promise<AttentionResult<GPUBuffer>> {
  const { numHeads, headDim } = options;
  const { numQueries } = shape;
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  const output = owned.create('attention output', numQueries * numHeads * headDim, usage);
  const logSumExp = options.logSumExp ? owned.create('attention log-sum-exp', numQueries * numHeads, usage) : undefined;
  if (numQueries > 0) await run(gpu, options, shape, owned, { output, logSumExp });
  return { output, logSumExp };
}

async function read(
  gpu: Gpu,
  options: AttentionOptions,
  shape: Shape,
  owned: OwnedBuffers,
  { output, logSumExp }: AttentionResult<GPUBuffer>,
): Promise<AttentionResult<Float32Array<ArrayBuffer>>> {
  const rows = shape.numQueries * options.numHeads;
  const values = rows * options.headDim;
  if (rows === 0) return { output: new Float32Array(0), logSumExp: logSumExp && new Float32Array(0) };
  const staging = owned.create('attention readback', values + (logSumExp ? rows : 0), GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST);
  const encoder = gpu.device.createCommandEncoder();
  encoder.copyBufferToBuffer(output, 0, staging, 0, output.size);
  if (logSumExp) encoder.copyBufferToBuffer(logSumExp, 0, staging, output.size, logSumExp.size);
  gpu.device.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const floats = new Float32Array(staging.getMappedRange().slice(0));
  return { output: floats.subarray(0, values), logSumExp: logSumExp && floats.subarray(values) };
}

async function run(
  gpu: Gpu,
  options: AttentionOptions,
  { numKvHeads, queryLens, seqLens, numQueries, numKeys }: Shape,
  owned: OwnedBuffers,
  results: AttentionResult<GPUBuffer>,
): Promise<void> {
  const { numHeads, headDim, causal, kvDtype = 'f32', deterministic, logSumExp } = options;
  const blocks = seqLens.map((seqLen) => Math.ceil(seqLen / blockSize));
  const kv = owned.own(
    new KvCache(gpu, {
      ...{ numLayers: 1, numKvHeads, headDim, blockSize, dtype: kvDtype },
      numBlocks: blocks.reduce((sum, count) => sum + count, 1),
      maxSequences: seqLens.reduce((sum, seqLen, i) => sum + partsOf(queryLens[i], seqLen), 0),
      maxBlocksPerSequence: Math.max(...blocks),
    }),
  );
  const cache = launchCacheFor(gpu, [numHeads, numKvHeads, headDim, kvDtype, kv.pools[0].length > 1 ? kv.blocksPerBuffer : 0]);
  const paged = owned.own(
    new PagedAttention(cache, kv, {
      ...{ numHeads, deterministic, logSumExp, cascade: 'off' },
      maxTokensPerStep: Math.max(numKeys, numQueries),
    }),
  );
  const [layer] = await Promise.all([
    paged.prepareLayer(0, {
      ...options,
      query: owned.upload('attention queries', options.query, numQueries * numHeads * headDim),
      key: owned.upload('attention keys', options.key, numKeys * numKvHeads * headDim),
      value: owned.upload('attention values', options.value, numKeys * numKvHeads * headDim),
      output: results.output,
    }),
    paged.prepare(),
  ]);

  /** One submit: a plan takes effect before the whole of it. */
  const submit = (
    batch: readonly BatchEntry[],
    record: (pass: GPUComputePassEncoder) => void,
    finish?: (encoder: GPUCommandEncoder) => void,
  ): void => {
    paged.plan(batch);
    paged.write();
    const encoder = gpu.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    paged.updateTables(pass);
    record(pass);
    pass.end();
    finish?.(encoder);
    cache.submit([encoder.finish()]);
  };
  const sequences = seqLens.map((seqLen) => {
    const sequence = kv.open();
    kv.extend(sequence, seqLen);
    return sequence;
  });
  const stored = sequences.map((sequence) => ({ sequence, queryLen: sequence.length }));
  submit(stored, (pass) => layer.append(pass));
  const asked = sequences.flatMap((sequence, i) => entriesOf(kv, sequence, queryLens[i], causal));
  submit(
    asked,
    (pass) => layer.attend(pass),
    (encoder) => {
      if (!paged.logSumExp || !results.logSumExp) return;
      encoder.copyBufferToBuffer(paged.logSumExp.buffer, paged.logSumExp.offset, results.logSumExp, 0, results.logSumExp.size);
    },
  );
}

/** How many entries of a batch a sequence's queries are: an entry has no more of them than keys. */
function partsOf(queryLen: number, seqLen: number): number {
  return queryLen > seqLen ? Math.ceil(queryLen / seqLen) : 1;
}

/** Where there are more queries than keys, which is so in cross-attention, forks of the sequence take the others. */
function entriesOf(kv: KvCache, sequence: Sequence, queryLen: number, causal: boolean | undefined): BatchEntry[] {
  const most = sequence.length;
  return Array.from({ length: partsOf(queryLen, most) }, (_, part) => ({
    sequence: part === 0 ? sequence : kv.fork(sequence),
    queryLen: Math.min(most, queryLen - part * most),
    causal,
  }));
}

function launchCacheFor(gpu: Gpu, frozen: readonly (string | number)[]): LaunchCache {
  const known = launchCaches.get(gpu.device) ?? new Map<string, LaunchCache>();
  launchCaches.set(gpu.device, known);
  const key = JSON.stringify(frozen);
  const cache = known.get(key) ?? new LaunchCache(gpu, { argumentSlots: 32 });
  known.set(key, cache);
  return cache;
}

function checkShape(gpu: Gpu, options: AttentionOptions): Shape {
  const { query, key, value, numHeads, headDim, numKvHeads = numHeads, causal, returns } = options;
  checkPositive('numHeads', numHeads);
  checkPositive('numKvHeads', numKvHeads);
  checkPositive('headDim', headDim);
  if (numHeads % numKvHeads !== 0)
    throw new InvalidArgumentError('numHeads', numHeads, `a positive multiple of numKvHeads (${numKvHeads})`);
  if (causal !== undefined && typeof causal !== 'boolean') throw new InvalidArgumentError('causal', causal, 'true or false');
  if (returns !== undefined && returns !== 'array' && returns !== 'buffer')
    throw new InvalidArgumentError('returns', returns, 'one of array, buffer');
  const queries = rowsOf('query', query, numHeads * headDim);
  const keys = rowsOf('key', key, numKvHeads * headDim);
  const values = rowsOf('value', value, numKvHeads * headDim);
  const lengths = checkLengths(options, queries, keys);
  const numQueries = lengths.queryLens.reduce((sum, length) => sum + length, 0);
  const numKeys = lengths.seqLens.reduce((sum, length) => sum + length, 0);
  checkRows('query', query, queries, numQueries, 'queryStartLoc');
  checkRows('key', key, keys, numKeys, 'seqLens');
  checkRows('value', value, values, numKeys, 'seqLens');
  checkBytes('The queries', gpu, numQueries * numHeads * headDim);
  checkBytes('The keys', gpu, numKeys * numKvHeads * headDim);
  return { numKvHeads, ...lengths, numQueries, numKeys };
}

function checkLengths(options: AttentionOptions, queries: number, keys: number): Pick<Shape, 'queryLens' | 'seqLens'> {
  const { queryStartLoc, seqLens, causal = true, window, alibi, modifications } = options;
  if ((queryStartLoc === undefined) !== (seqLens === undefined))
    throw new InvalidArgumentError(queryStartLoc ? 'seqLens' : 'queryStartLoc', undefined, 'given where the other one is');
  const starts = Array.from(queryStartLoc ?? [0, queries]);
  const lens = Array.from(seqLens ?? [keys]);
  if (starts.length !== lens.length + 1)
    throw new InvalidArgumentError('queryStartLoc', `${starts.length} numbers`, `${lens.length + 1}, one more than seqLens has`);
  const queryLens = lens.map((_, i) => starts[i + 1] - starts[i]);
  if (starts[0] !== 0 || !queryLens.every((length) => Number.isInteger(length) && length >= 0))
    throw new InvalidArgumentError('queryStartLoc', `[${starts}]`, 'integers from 0 that never fall');
  const hasOrder = causal || window !== undefined || alibi !== undefined || modifications !== undefined;
  lens.forEach((seqLen, i) => {
    if (!Number.isInteger(seqLen) || seqLen < 0) throw new InvalidArgumentError(`seqLens[${i}]`, seqLen, 'an integer from 0');
    if (queryLens[i] > seqLen && (hasOrder || seqLen === 0)) {
      const expected = `at least its ${queryLens[i]} queries; fewer, but not none, where \`causal\` is false and no option looks at positions`;
      throw new InvalidArgumentError(`seqLens[${i}]`, seqLen, expected);
    }
  });
  return { queryLens, seqLens: lens };
}

/** Whole rows that a tensor has room for. */
function rowsOf(name: string, values: unknown, rowLength: number): number {
  if (values instanceof Float32Array) {
    if (values.length % rowLength !== 0)
      throw new InvalidArgumentError(name, `${values.length} values`, `whole rows of ${rowLength}: heads times headDim`);
    return values.length / rowLength;
  }
  if (!isBuffer(values)) throw new InvalidArgumentError(name, describe(values), 'a Float32Array or a GPUBuffer of f32 values');
  if ((values.usage & GPUBufferUsage.STORAGE) === 0)
    throw new InvalidArgumentError(`${name}.usage`, values.usage, 'with GPUBufferUsage.STORAGE');
  return Math.floor(values.size / 4 / rowLength);
}

/** Arrays have just what the lengths say; buffers may be larger. */
function checkRows(name: string, values: AttentionBuffer, actual: number, expected: number, lengths: string): void {
  if (values instanceof Float32Array ? actual === expected : actual >= expected) return;
  const bound = values instanceof Float32Array ? '' : 'at least ';
  throw new InvalidArgumentError(name, `${actual} rows`, `${bound}${expected} rows, as ${lengths} says`);
}

function checkBytes(what: string, { limits }: Gpu, floats: number): void {
  const granted = Math.min(limits.maxStorageBufferBindingSize, limits.maxBufferSize);
  if (floats * 4 > granted)
    throw new LimitExceededError(
      what,
      'maxStorageBufferBindingSize',
      floats * 4,
      granted,
      'Split the batch, or its heads, over several calls.',
    );
}

function describe(value: unknown): string {
  return typeof value === 'object' && value !== null ? `a ${value.constructor.name}` : String(value);
}
