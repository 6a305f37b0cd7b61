/**
 * Reads weights from safetensors files, whole or sharded.
 *
 * A file is: header length (u64, little endian), header (JSON, possibly padded with spaces), then the tensors' bytes, without holes.
 * Format: https://github.com/huggingface/safetensors#format. Only headers are held in memory; tensors are read by slices.
 */
import { ModelFileError, UnsupportedModelError } from '../errors.ts';
import { type ByteSource, type ModelFiles, type OnBytes, openIfPresent, readJsonIfPresent } from './files.ts';
import { isRecord, nearest } from './json.ts';

/** Element types that weights may have. */
export type WeightDtype = 'f32' | 'f16' | 'bf16';

/** One tensor of a file, not yet read. */
export interface WeightTensor {
  readonly name: string;
  readonly dtype: WeightDtype;
  /** Row-major; the last one is contiguous. */
  readonly shape: readonly number[];
  /** Bytes of all elements. */
  readonly byteLength: number;
  /** The file that it is in. */
  readonly file: string;
  /**
   * Bytes `start` to `end` of the tensor (default: all), little endian, in memory that the caller owns.
   *
   * @throws {ModelFileError} when the file cannot be read.
   */
  read(start?: number, end?: number): Promise<Uint8Array<ArrayBuffer>>;
}

/** The tensors of a model, by name. */
export interface TensorIndex {
  /** Bytes of all tensors. */
  readonly bytes: number;
  names(): string[];
  has(name: string): boolean;
  /**
   * @throws {ModelFileError} when there is no such tensor; the message lists near names.
   * @throws {UnsupportedModelError} when its elements are not f32, f16 or bf16.
   */
  tensor(name: string): WeightTensor;
  /** Lets go of the files. Tensors cannot be read afterwards. */
  close(): void;
}

const wholeFile = 'model.safetensors';
const shardIndexFile = 'model.safetensors.index.json';

/** The format's own limit. */
const maxHeaderBytes = 100_000_000;

const weightDtypes: Readonly<Record<string, WeightDtype>> = { F32: 'f32', F16: 'f16', BF16: 'bf16' };

const elementBits: Readonly<Record<string, number>> = {
  ...{ F64: 64, F32: 32, F16: 16, BF16: 16, C64: 64 },
  ...{ I64: 64, I32: 32, I16: 16, I8: 8, U64: 64, U32: 32, U16: 16, U8: 8, BOOL: 8 },
  ...{ F8_E4M3: 8, F8_E5M2: 8, F8_E8M0: 8, F8_E4M3FNUZ: 8, F8_E5M2FNUZ: 8, F6_E2M3: 6, F6_E3M2: 6, F4: 4 },
};

interface Entry {
  readonly source: ByteSource;
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Byte range within the file. */
  readonly start: number;
  readonly end: number;
}

/**
 * Opens `model.safetensors`, or else all the shards that `model.safetensors.index.json` names, and checks their headers.
 *
 * @param onBytes progress of the downloads, summed over shards.
 * @throws {ModelFileError} when a file is missing, truncated, or not what it says it is.
 */
export async function openSafetensors(files: ModelFiles, onBytes?: OnBytes): Promise<TensorIndex> {
  const whole = await openIfPresent(files, wholeFile, onBytes);
  if (whole) return closingOnError([whole], async () => tensorIndex([whole], await readHeader(whole)));
  const shardIndex = await readJsonIfPresent(files, shardIndexFile);
  if (shardIndex === undefined) {
    const problem = `${files.description} has neither it nor ${shardIndexFile}. Weights are read from safetensors only; convert others first.`;
    throw new ModelFileError(wholeFile, problem, { missing: true });
  }
  return openShards(files, shardIndex, onBytes);
}

/**
 * Checks a tensor's shape.
 *
 * @throws {ModelFileError} when it is another; the message names the tensor and both shapes.
 */
export function expectShape(tensor: WeightTensor, shape: readonly number[]): void {
  if (tensor.shape.length === shape.length && tensor.shape.every((size, axis) => size === shape[axis])) return;
  const problem = `tensor "${tensor.name}" has shape [${tensor.shape.join(', ')}], but config.json asks for [${shape.join(', ')}].`;
  throw new ModelFileError(tensor.file, `${problem} Are both files of the same model?`);
}

async function openShards(files: ModelFiles, shardIndex: unknown, onBytes?: OnBytes): Promise<TensorIndex> {
  const weightMap = isRecord(shardIndex) && isRecord(shardIndex.weight_map) ? shardIndex.weight_map : undefined;
  if (!weightMap) throw new ModelFileError(shardIndexFile, '"weight_map" is missing or not an object. Get the file again.');
  const shardNames = new Set<string>();
  for (const [tensor, shard] of Object.entries(weightMap)) {
    // A name from a file must not lead out of the model's folder.
    if (typeof shard !== 'string' || !/^[\w-][\w.-]*\.safetensors$/.test(shard)) {
      throw new ModelFileError(
        shardIndexFile,
        `tensor "${tensor}" is said to be in ${JSON.stringify(shard)}, which is no shard's file name.`,
      );
    }
    shardNames.add(shard);
  }

  const metadata = isRecord(shardIndex) && isRecord(shardIndex.metadata) ? shardIndex.metadata : {};
  const totalSize = typeof metadata.total_size === 'number' ? metadata.total_size : 0;
  const sources: ByteSource[] = [];
  const entries = new Map<string, Entry>();
  return closingOnError(sources, async () => {
    let before = 0;
    for (const shard of [...shardNames].sort()) {
      const source = await files.open(shard, (loaded) => onBytes?.(before + loaded, Math.max(totalSize, before + loaded)));
      sources.push(source);
      before += source.size;
      for (const [name, entry] of await readHeader(source)) if (weightMap[name] === shard) entries.set(name, entry);
    }
    for (const [name, shard] of Object.entries(weightMap)) {
      if (!entries.has(name))
        throw new ModelFileError(String(shard), `has no tensor "${name}", though ${shardIndexFile} says so. Get both again.`);
    }
    return tensorIndex(sources, entries);
  });
}

async function closingOnError<T>(sources: readonly ByteSource[], action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    for (const source of sources) source.close?.();
    throw error;
  }
}

function tensorIndex(sources: readonly ByteSource[], entries: ReadonlyMap<string, Entry>): TensorIndex {
  return {
    bytes: [...entries.values()].reduce((sum, { start, end }) => sum + end - start, 0),
    names: () => [...entries.keys()],
    has: (name) => entries.has(name),
    tensor(name) {
      const entry = entries.get(name);
      if (!entry) {
        const near = nearest(name, entries.keys(), 3).map((other) => `"${other}"`);
        const hint = near.length > 0 ? `The nearest names are ${near.join(', ')}.` : 'It has no tensors at all.';
        throw new ModelFileError(sources.map((source) => source.name).join(', '), `has no tensor "${name}". ${hint}`);
      }
      return weightTensor(name, entry);
    },
    close() {
      for (const source of sources) source.close?.();
    },
  };
}

function weightTensor(name: string, { source, dtype: storedDtype, shape, start, end }: Entry): WeightTensor {
  const dtype = weightDtypes[storedDtype];
  if (!dtype) throw new UnsupportedModelError(`Dtype ${storedDtype} of tensor "${name}" in ${source.name}`, Object.keys(weightDtypes));
  const byteLength = end - start;
  return {
    name,
    dtype,
    shape,
    byteLength,
    file: source.name,
    async read(from = 0, to = byteLength) {
      if (!(from >= 0 && from <= to && to <= byteLength)) {
        throw new ModelFileError(source.name, `bytes ${from} to ${to} of tensor "${name}" were asked for, but it has ${byteLength}.`);
      }
      return source.read(start + from, start + to);
    },
  };
}

async function readHeader(source: ByteSource): Promise<Map<string, Entry>> {
  const fail = (problem: string): never => {
    throw new ModelFileError(source.name, `${problem} Get the file again.`);
  };
  if (source.size < 8) fail(`is truncated: ${source.size} bytes are too few for a safetensors file.`);
  const head = await source.read(0, 8);
  if (new TextDecoder().decode(head) === 'version ') {
    throw new ModelFileError(source.name, 'is a Git LFS pointer, not the weights. Run "git lfs pull" in the folder that it came from.');
  }
  const headerLength = new DataView(head.buffer, head.byteOffset).getBigUint64(0, true);
  if (headerLength > maxHeaderBytes)
    fail(`is no safetensors file: its header would have ${headerLength} bytes, and ${maxHeaderBytes} are allowed.`);
  const dataStart = 8 + Number(headerLength);
  if (dataStart > source.size) fail(`is truncated: its header ends at byte ${dataStart}, but the file has ${source.size}.`);

  const entries = new Map<string, Entry>();
  for (const [name, value] of Object.entries(parseHeader(await source.read(8, dataStart), fail))) {
    if (name !== '__metadata__') entries.set(name, parseEntry(name, value, source, dataStart, fail));
  }
  checkLayout(entries, dataStart, source.size, fail);
  return entries;
}

function parseHeader(bytes: Uint8Array, fail: (problem: string) => never): Record<string, unknown> {
  try {
    const header: unknown = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
    if (isRecord(header)) return header;
  } catch {
    // Falls through: neither text nor JSON is one and the same to the reader.
  }
  return fail('is no safetensors file: its header is not a JSON object.');
}

function parseEntry(name: string, value: unknown, source: ByteSource, dataStart: number, fail: (problem: string) => never): Entry {
  if (!isRecord(value)) return fail(`the header's entry of tensor "${name}" is not an object.`);
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== 'string') return fail(`tensor "${name}" has no dtype.`);
  if (!isSizes(shape)) return fail(`tensor "${name}" has the shape ${JSON.stringify(shape)}.`);
  if (!isSizes(offsets) || offsets.length !== 2) return fail(`tensor "${name}" has the offsets ${JSON.stringify(offsets)}.`);
  const [start, end] = offsets as [number, number];
  const bits = elementBits[dtype];
  const expected = bits === undefined ? end - start : (shape.reduce((product, size) => product * size, 1) * bits) / 8;
  if (end - start !== expected) {
    return fail(
      `tensor "${name}" (${dtype} [${shape.join(', ')}]) needs ${expected} bytes, but its offsets ${start} to ${end} hold ${end - start}.`,
    );
  }
  return { source, dtype, shape, start: dataStart + start, end: dataStart + end };
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}

/** Tensors lie one after the other and fill the file: the format allows neither overlaps nor holes. */
function checkLayout(entries: ReadonlyMap<string, Entry>, dataStart: number, fileSize: number, fail: (problem: string) => never): void {
  let position = dataStart;
  const inOrder = [...entries].sort(([, a], [, b]) => a.start - b.start || a.end - b.end);
  for (const [name, { start, end }] of inOrder) {
    if (end > fileSize) fail(`is truncated: tensor "${name}" ends at byte ${end}, but the file has ${fileSize}.`);
    if (start < position) fail(`tensor "${name}" overlaps the one before it (it starts at byte ${start}, that one ends at ${position}).`);
    if (start > position) fail(`bytes ${position} to ${start}, before tensor "${name}", belong to no tensor.`);
    position = end;
  }
  if (position !== fileSize) fail(`bytes ${position} to ${fileSize}, its last ones, belong to no tensor.`);
}
