/** Holds what a case of the grid wrote against float64: the rows in the pool, all of them, and the results, all or a sample. Pure. */
import type { Random } from '../harness/random.ts';
import { decodeE4m3, decodeE5m2, decodeHalf, e4m3Codes } from './formats.ts';
import { type GridCase, headsOf, storages } from './grid.ts';
import { type CaseInputs, largestCodes, modifiedScore, positionOf, type SequenceInputs, turn } from './grid-inputs.ts';
import { poisonWord } from './poison.ts';
import { type ReferenceRow, referenceRow } from './reference.ts';

/** A layer's pool, as far as sequences have it. */
export interface StoredPool {
  readonly blocks: ReadonlyMap<number, Uint32Array<ArrayBuffer>>;
  readonly tables: readonly (readonly number[])[];
  readonly written: number;
}

/** Keys and values as they are stored, decoded: [seqLen][numKvHeads][headDim]. */
export interface StoredRows {
  readonly key: Float32Array;
  readonly value: Float32Array;
}

const decoders = { int8: (code: number) => (code << 24) >> 24, fp8_e4m3: decodeE4m3, fp8_e5m2: decodeE5m2 };
const tables = new Map<string, Float32Array>();

/** What each code means. */
function tableOf(dtype: 'f16' | keyof typeof decoders): Float32Array {
  const known =
    tables.get(dtype) ??
    Float32Array.from({ length: dtype === 'f16' ? 65_536 : 256 }, (_, code) => (dtype === 'f16' ? decodeHalf : decoders[dtype])(code));
  tables.set(dtype, known);
  return known;
}

/** Bound of the error of a value that is stored, beside that of the arithmetic before it: half the distance of the codes there. */
function roundingError(dtype: 'f32' | 'f16' | keyof typeof largestCodes, size: number, scale: number): number {
  if (dtype === 'f32') return 0;
  if (dtype === 'f16') return Math.max(size * 2 ** -11, 2 ** -25);
  if (dtype === 'int8') return scale / 2;
  return dtype === 'fp8_e4m3' ? Math.max(size * 2 ** -4, scale * 2 ** -10) : Math.max(size * 2 ** -3, scale * 2 ** -17);
}

/**
 * Gathers the rows of every sequence from its blocks. Throws for a row that is not what was appended, and for words elsewhere in the pool that
 * are not poison any more.
 */
export function readStored(of: GridCase, inputs: CaseInputs, pool: StoredPool): StoredRows[] {
  const { headDim, blockSize } = of;
  const { numKvHeads } = headsOf(of);
  const { dtype } = storages[of.storage];
  const rowSize = numKvHeads * headDim;
  const Codes = dtype === 'f32' ? Float32Array : dtype === 'f16' ? Uint16Array : Uint8Array;
  const meanings = dtype === 'f32' ? undefined : tableOf(dtype);
  const tokenScales = of.storage.endsWith('by token');
  const headWords = (headDim * Codes.BYTES_PER_ELEMENT) / 4;
  const seen = new Set<string>();
  let stored = 0;
  const rows = inputs.sequences.map((sequence, s) => {
    const key = new Float32Array(sequence.seqLen * rowSize);
    const value = new Float32Array(sequence.seqLen * rowSize);
    for (let place = 0; place < sequence.seqLen; place++) {
      const number = pool.tables[s][Math.floor(place / blockSize)];
      const block = pool.blocks.get(number);
      if (!block) {
        // Given up: no row may read it.
        for (const into of [key, value]) into.fill(Number.NaN, place * rowSize, (place + 1) * rowSize);
        continue;
      }
      const slot = place % blockSize;
      const isNew = !seen.has(`${number} ${slot}`);
      seen.add(`${number} ${slot}`);
      for (const [isValue, into] of [key, value].entries()) {
        const scales = (head: number) => {
          if (!tokenScales) return dtype === 'f32' || dtype === 'f16' ? 1 : isValue ? inputs.valueScale : inputs.keyScale;
          const word = 2 * numKvHeads * blockSize * headWords + 2 * (head * blockSize + slot) + isValue;
          return new Float32Array(block.buffer, block.byteOffset + 4 * word, 1)[0];
        };
        const row = into.subarray(place * rowSize, (place + 1) * rowSize);
        let words = tokenScales ? numKvHeads : 0;
        for (let head = 0; head < numKvHeads; head++) {
          const first = ((isValue * numKvHeads + head) * blockSize + slot) * headWords;
          const own = block.subarray(first, first + headWords);
          words += wordsIn(own);
          const codes = dtype === 'fp8_e4m3' ? e4m3Codes(own) : new Codes(own.buffer, own.byteOffset, headDim);
          const scale = scales(head);
          for (let i = 0; i < headDim; i++) row[head * headDim + i] = (meanings ? meanings[codes[i]] : codes[i]) * scale;
        }
        if (!isNew) continue; // a common prefix is checked once
        checkRow(of, inputs, sequence, place, isValue === 1, row, scales);
        stored += words;
      }
    }
    return { key, value };
  });
  const inBlocks = [...pool.blocks.values()].reduce((sum, block) => sum + wordsIn(block), 0);
  if (inBlocks !== stored) throw new Error(`${inBlocks - stored} words of the sequences' blocks were written that belong to no token`);
  if (pool.written !== stored) throw new Error(`${pool.written - stored} words were written in blocks that no sequence has`);
  return rows;
}

/** How many words are not poison. */
function wordsIn(words: Uint32Array): number {
  let count = 0;
  for (let i = 0; i < words.length; i++) if (words[i] !== poisonWord) count++;
  return count;
}

/** Holds one stored row, of all heads, against what was appended: within half a code of it, and exactly where nothing was computed. */
function checkRow(
  of: GridCase,
  inputs: CaseInputs,
  sequence: SequenceInputs,
  place: number,
  isValue: boolean,
  row: Float32Array,
  scales: (head: number) => number,
): void {
  const { headDim } = of;
  const { dtype } = storages[of.storage];
  const turned = !isValue && inputs.rotary !== undefined;
  const given = (isValue ? sequence.values : sequence.keys)[place];
  const expected = turned ? turn(given, inputs.rotary, positionOf(sequence, place), headDim) : given;
  const largestCode = dtype === 'f32' || dtype === 'f16' ? undefined : largestCodes[dtype];
  const fail = (what: string, at: number, actual: number, wanted: number) => {
    const where = `head ${Math.floor(at / headDim)}, dimension ${at % headDim}, of ${isValue ? 'value' : 'key'} ${place}`;
    throw new Error(`${what} of ${where} is stored as ${actual}, expected ${wanted}`);
  };
  if (largestCode === undefined && !turned) {
    for (let i = 0; i < row.length; i++) if (row[i] !== expected[i]) fail('the value', i, row[i], expected[i]);
    return;
  }
  for (let first = 0; first < row.length; first += headDim) {
    let largest = 0;
    for (let i = first; i < first + headDim; i++) largest = Math.max(largest, Math.abs(expected[i]));
    const scale = scales(first / headDim);
    const wantedScale = Math.max(largest / (largestCode ?? 1), 1e-30);
    if (of.storage.endsWith('by token') && !(Math.abs(scale - wantedScale) <= wantedScale * 1e-5))
      fail('the scale', first, scale, wantedScale);
    const bound = largestCode === undefined ? Number.POSITIVE_INFINITY : scale * largestCode;
    const arithmetic = 2 ** -22 * largest; // of f32
    for (let i = first; i < first + headDim; i++) {
      const wanted = Math.max(-bound, Math.min(bound, expected[i]));
      const size = Math.abs(wanted);
      if (!(Math.abs(row[i] - wanted) <= roundingError(dtype, size, scale) + arithmetic + 2 ** -20 * size))
        fail('the value', i, row[i], wanted);
    }
  }
}

/** A row of the results. */
export interface RowPlace {
  readonly sequence: number;
  /** Among the new tokens of its sequence, and of the batch. */
  readonly token: number;
  readonly batchToken: number;
  readonly head: number;
}

/** Multiplications that the reference of a case may take. */
const maxReference = 8e6;

/** The first and the last row, the edges of sequences, and random rows, as many as there is time for; all where there is time for all. */
export function chooseRows(of: GridCase, inputs: CaseInputs, numbers: Random, budget = maxReference): RowPlace[] {
  const { numHeads } = headsOf(of);
  let tokens = 0;
  const ofSequence = inputs.sequences.map(({ queryLen }, sequence) => {
    const first = tokens;
    tokens += queryLen;
    return Array.from({ length: queryLen }, (_, token) => ({ sequence, token, batchToken: first + token }));
  });
  const all = ofSequence.flat();
  const edges = ofSequence.flatMap((list) => (list.length > 1 ? [list[0], list[list.length - 1]] : list));
  const heads = (list: typeof all) => list.flatMap((place) => Array.from({ length: numHeads }, (_, head) => ({ ...place, head })));
  const must =
    all.length === 0
      ? []
      : [
          { ...all[0], head: 0 },
          { ...all[all.length - 1], head: numHeads - 1 },
        ];
  const shuffled = <T>(list: readonly T[]) => numbers.permutation(list.length).map((i) => list[i]);
  const some = edges.map((place) => ({ ...place, head: numbers.integer(numHeads) }));
  const chosen = new Map<string, RowPlace>();
  let spent = 0;
  for (const place of [...must, ...shuffled(some), ...shuffled(heads(edges)), ...shuffled(heads(all))]) {
    const name = `${place.batchToken} ${place.head}`;
    if (chosen.has(name)) continue;
    const cost = 2 * inputs.sequences[place.sequence].seqLen * of.headDim;
    if (spent + cost > budget && chosen.size >= must.length) continue;
    spent += cost;
    chosen.set(name, place);
  }
  return [...chosen.values()];
}

/** What may be left out of a row, to see whether it matters. */
export interface Without {
  readonly option?: 'window' | 'keepFirst' | 'softcap' | 'alibi' | 'sinks' | 'order' | 'modified';
}

/** A row in float64. */
export function expectedRow(
  of: GridCase,
  inputs: CaseInputs,
  { sequence, token, head }: RowPlace,
  { key, value }: Pick<ReferenceRow, 'key' | 'value'>,
  { option }: Without = {},
): ReturnType<typeof referenceRow> {
  const { numHeads, numKvHeads } = headsOf(of);
  const { headDim } = of;
  const one = inputs.sequences[sequence];
  const context = one.seqLen - one.queryLen;
  const query = context + token;
  const entry = option === 'order' ? {} : one.entry;
  const [rangeBegin, rangeEnd] = entry.bidirectional?.find(([begin, end]) => query >= begin && query < end) ?? [query, query + 1];
  const end = entry.causal === false ? one.seqLen : rangeEnd;
  const window = option === 'window' ? undefined : inputs.window;
  const keepFirst = option === 'keepFirst' ? 0 : of.keepFirst;
  const inWindow = (k: number) =>
    window === undefined || Math.abs(query - k) < window || k < keepFirst || (entry.causal !== false && k >= rangeBegin);
  const change = (scaled: number, k: number): number | undefined => {
    let score: number | undefined = scaled;
    if (of.softcap !== 'none' && option !== 'softcap') score = of.softcap * Math.tanh(score / of.softcap);
    if (of.modified && option !== 'modified') score = modifiedScore(inputs, score, head, query, k);
    if (score === undefined) return undefined;
    const slope = inputs.slopes[head];
    if (option !== 'alibi' && of.alibi === 'linear') score += slope * (k - query);
    if (option !== 'alibi' && of.alibi === 'sqrt') score -= slope * Math.sqrt(Math.max(query - k, 0));
    if (!entry.queryBias || k < context) return score;
    const bias = entry.queryBias[token * one.queryLen + k - context];
    return bias <= -1e30 ? undefined : score + bias;
  };
  const rows = turn(one.queries[token], inputs.rotary, positionOf(one, query), headDim);
  return referenceRow({
    ...{ numKvHeads, headDim, scale: inputs.scale, key, value, change },
    kvHead: Math.floor((head * numKvHeads) / numHeads),
    query: rows.subarray(head * headDim, (head + 1) * headDim),
    sees: (k) => k < end && inWindow(k),
    ...(of.sinks !== 'none' && option !== 'sinks' && { sink: inputs.sinks[head] }),
  });
}

/** The keys and values of a sequence as they would be without being stored: turned, and nothing rounded. */
export function unstored(of: GridCase, inputs: CaseInputs, sequence: SequenceInputs): StoredRows {
  const size = headsOf(of).numKvHeads * of.headDim;
  const key = new Float32Array(sequence.seqLen * size);
  const value = new Float32Array(sequence.seqLen * size);
  for (let place = 0; place < sequence.seqLen; place++) {
    key.set(turn(sequence.keys[place], inputs.rotary, positionOf(sequence, place), of.headDim), place * size);
    value.set(sequence.values[place], place * size);
  }
  return { key, value };
}
