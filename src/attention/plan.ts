/**
 * What one step tells the GPU, packed into one binding: `array<u32>` named `plan` in WGSL. Pure: needs no GPU.
 *
 * The header holds counts and the offsets of the sections behind it, so that a step writes one short contiguous range, whatever the
 * capacity. Names in the header are the WGSL constants too (see `planPrelude`): the layout is written down once, here.
 */
import { CapacityExceededError } from '../errors.ts';

/** Words of the header, in order. */
const header = [
  // Counts.
  'NUM_TOKENS',
  'NUM_DECODE_ITEMS',
  'NUM_PREFILL_ITEMS',
  'NUM_MERGE_ROWS',
  'NUM_TABLE_UPDATES',
  'NUM_LOGIT_ROWS',
  // Offsets of sections, in words.
  'POSITIONS',
  'SLOT_MAPPING',
  'DECODE_ITEMS',
  'PREFILL_ITEMS',
  'MERGE_ROWS',
  'TABLE_UPDATES',
  'TOKEN_IDS',
  'LOGIT_ROWS',
  'SAMPLING',
  'STOP_TOKENS',
] as const;
export type HeaderField = (typeof header)[number];

/** Words of a work item of the attention kernels, in order. */
const item = [
  'ITEM_TOKEN', // row of the first query token in the packed query
  'ITEM_TOKENS', // query tokens
  'ITEM_POSITION', // position of the first query token in its sequence
  'ITEM_TABLE_ROW', // row of the sequence in the block table
  'ITEM_KEY_BEGIN', // key positions [begin, end)
  'ITEM_KEY_END',
  'ITEM_PARTIAL', // index of the partial state to write, or NO_PARTIAL: write the output
] as const;
export const itemWords = item.length;

/** A merge row: token, first partial, count of partials. */
export const mergeWords = 3;
export const noPartial = 0xffffffff;

const indexOf = Object.fromEntries(header.map((name, index) => [name, index])) as Readonly<Record<HeaderField, number>>;

/** Words of a row of logits to sample from, in order. */
const sampling = [
  'SAMPLING_SEQUENCE', // where in `sampled` the token goes
  'SAMPLING_POSITION', // of the sampled token: with the seed, what makes it random
  'SAMPLING_TEMPERATURE', // f32
  'SAMPLING_TOP_K',
  'SAMPLING_TOP_P', // f32
  'SAMPLING_SEED',
  'SAMPLING_FIRST', // 1: forget that an earlier owner of the sequence row was finished
  'SAMPLING_STOPS', // where in the plan the stop tokens are
  'SAMPLING_NUM_STOPS',
] as const;
export const samplingWords = sampling.length;

/** Set in a token id: the id is not here but in `sampled`, at the row in the lower bits. */
export const sampledToken = 0x80000000;

/** WGSL constants of the layout above, for the kernels' preludes. */
export const planPrelude = [
  ...header.map((name, index) => `const ${name} = ${index}u;`),
  ...item.map((name, index) => `const ${name} = ${index}u;`),
  ...sampling.map((name, index) => `const ${name} = ${index}u;`),
  `const ITEM_WORDS = ${itemWords}u;`,
  `const MERGE_WORDS = ${mergeWords}u;`,
  `const SAMPLING_WORDS = ${samplingWords}u;`,
  `const SAMPLED_TOKEN = ${sampledToken}u;`,
  `const NO_PARTIAL = ${noPartial}u;`,
].join('\n');

/** Writes a step's words: `begin`, then counts and sections in any order, then `words` goes to the GPU. */
export class PlanWriter {
  readonly #words: Uint32Array<ArrayBuffer>;
  readonly #floats: Float32Array;
  #length = 0;

  /** @param capacity words, header included. */
  constructor(capacity: number) {
    this.#words = new Uint32Array(capacity);
    this.#floats = new Float32Array(this.#words.buffer);
  }

  begin(): void {
    this.#words.fill(0, 0, header.length);
    this.#length = header.length;
  }

  /** The words written so far: a view, valid until the next `begin`. */
  get words(): Uint32Array<ArrayBuffer> {
    return this.#words.subarray(0, this.#length);
  }

  count(field: HeaderField, value: number): void {
    this.#words[indexOf[field]] = value;
  }

  read(field: HeaderField): number {
    return this.#words[indexOf[field]];
  }

  /** Opens a section of `length` words and returns views of it to fill in: the same memory as u32 and as f32. */
  section(field: HeaderField, length: number): { readonly u32: Uint32Array; readonly f32: Float32Array } {
    const end = this.#length + length;
    if (end > this.#words.length) throw new CapacityExceededError('words of plan', end, this.#words.length, 'maxTokensPerStep');
    this.#words[indexOf[field]] = this.#length;
    const views = { u32: this.#words.subarray(this.#length, end), f32: this.#floats.subarray(this.#length, end) };
    this.#length = end;
    return views;
  }
}

/** One sequence of a step, as the packing needs it. */
export interface PlannedSequence {
  /** Row of the block table. */
  readonly tableRow: number;
  /** Physical blocks by logical number. */
  readonly blocks: readonly number[];
  /** Context plus new tokens. */
  readonly seqLen: number;
  /** New tokens. */
  readonly queryLen: number;
}

/** How work is cut. */
export interface PlanShape {
  readonly blockSize: number;
  /** Query tokens of one prefill work item. */
  readonly prefillTokens: number;
  /** Keys of one decode work item; longer rows are split. */
  readonly segmentKeys: number;
}

/** One packed step, as counts. */
export interface PlanCounts {
  readonly numTokens: number;
  readonly numDecodeItems: number;
  readonly numPrefillItems: number;
  readonly numMergeRows: number;
  readonly numPartials: number;
}

/** What the largest step of a cache can need. */
export interface PlanLimits {
  readonly maxTokensPerStep: number;
  readonly maxSequences: number;
  readonly maxBlocksPerSequence: number;
  readonly blockSize: number;
  readonly minSegmentKeys: number;
  readonly targetWorkgroups: number;
}

/** Most partial states of a step, however its rows are split (see `chooseSegmentKeys`). */
export function maxPartials({ maxSequences, maxBlocksPerSequence, blockSize, minSegmentKeys, targetWorkgroups }: PlanLimits): number {
  const maxSegments = Math.ceil((maxBlocksPerSequence * blockSize) / minSegmentKeys);
  return Math.min(maxSequences * maxSegments, targetWorkgroups + maxSequences);
}

/** Words that hold any step, the caller's own sections not counted. */
export function maxPlanWords(limits: PlanLimits): number {
  const { maxTokensPerStep, maxSequences, maxBlocksPerSequence } = limits;
  const perToken = 2 + itemWords;
  const perSequence = itemWords + mergeWords + 2 * maxBlocksPerSequence;
  return header.length + maxTokensPerStep * perToken + maxPartials(limits) * itemWords + maxSequences * perSequence;
}

/**
 * Packs the per-token and per-item sections of a batch. Sequences with one new token become decode items (several, where their keys are
 * split), those with more become prefill items; a sequence with none contributes nothing. Every token is in exactly one kind.
 */
export function packBatch(writer: PlanWriter, batch: readonly PlannedSequence[], shape: PlanShape): PlanCounts {
  const { blockSize, prefillTokens, segmentKeys } = shape;
  let numTokens = 0;
  let numDecodeItems = 0;
  let numPrefillItems = 0;
  let numMergeRows = 0;
  let numPartials = 0;
  for (const { queryLen, seqLen } of batch) {
    numTokens += queryLen;
    if (queryLen > 1) numPrefillItems += Math.ceil(queryLen / prefillTokens);
    if (queryLen !== 1) continue;
    const segments = Math.ceil(seqLen / segmentKeys);
    numDecodeItems += segments;
    if (segments > 1) {
      numMergeRows++;
      numPartials += segments;
    }
  }

  const positions = writer.section('POSITIONS', numTokens).u32;
  const slotMapping = writer.section('SLOT_MAPPING', numTokens).u32;
  const decodeItems = writer.section('DECODE_ITEMS', numDecodeItems * itemWords).u32;
  const prefillItems = writer.section('PREFILL_ITEMS', numPrefillItems * itemWords).u32;
  const mergeRows = writer.section('MERGE_ROWS', numMergeRows * mergeWords).u32;
  let token = 0;
  let decodeAt = 0;
  let prefillAt = 0;
  let mergeAt = 0;
  let partial = 0;
  for (const { tableRow, blocks, seqLen, queryLen } of batch) {
    const contextLen = seqLen - queryLen;
    for (let i = 0; i < queryLen; i++) {
      const position = contextLen + i;
      positions[token + i] = position;
      slotMapping[token + i] = blocks[Math.floor(position / blockSize)] * blockSize + (position % blockSize);
    }
    if (queryLen === 1) {
      const segments = Math.ceil(seqLen / segmentKeys);
      const keys = Math.ceil(seqLen / segments);
      if (segments > 1) {
        mergeRows.set([token, partial, segments], mergeAt);
        mergeAt += mergeWords;
      }
      for (let s = 0; s < segments; s++) {
        const keyEnd = Math.min(seqLen, (s + 1) * keys);
        decodeItems.set([token, 1, contextLen, tableRow, s * keys, keyEnd, segments > 1 ? partial++ : noPartial], decodeAt);
        decodeAt += itemWords;
      }
    } else {
      for (let first = 0; first < queryLen; first += prefillTokens) {
        const tokens = Math.min(prefillTokens, queryLen - first);
        const position = contextLen + first;
        prefillItems.set([token + first, tokens, position, tableRow, 0, position + tokens, noPartial], prefillAt);
        prefillAt += itemWords;
      }
    }
    token += queryLen;
  }
  writer.count('NUM_TOKENS', numTokens);
  writer.count('NUM_DECODE_ITEMS', numDecodeItems);
  writer.count('NUM_PREFILL_ITEMS', numPrefillItems);
  writer.count('NUM_MERGE_ROWS', numMergeRows);
  return { numTokens, numDecodeItems, numPrefillItems, numMergeRows, numPartials };
}

/**
 * Chooses how many keys one decode work item takes: as many as leave about `targetWorkgroups` workgroups to the GPU, but at least
 * `minSegmentKeys` (a shorter segment costs more in the merge than it wins), in whole tiles of 64.
 */
export function chooseSegmentKeys(
  batch: readonly PlannedSequence[],
  workgroupsPerItem: number,
  targetWorkgroups: number,
  minSegmentKeys: number,
): number {
  let keys = 0;
  for (const { queryLen, seqLen } of batch) if (queryLen === 1) keys += seqLen;
  const even = Math.ceil((keys * workgroupsPerItem) / targetWorkgroups / 64) * 64;
  return Math.max(minSegmentKeys, even);
}
