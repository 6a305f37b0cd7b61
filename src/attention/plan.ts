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
  'NUM_COPIES',
  // Offsets of sections, in words.
  'POSITIONS',
  'SLOT_MAPPING',
  'SPANS',
  'BIASES',
  'BLOCK_COPIES',
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
  'ITEM_TABLE_ROW', // row of the sequence in the block table
  'ITEM_KEY_BEGIN', // keys [begin, end)
  'ITEM_KEY_END',
  'ITEM_SEGMENT', // which of its rows' segments this is, or NO_PARTIAL: the only one, write the output
] as const;
export const itemWords = item.length;

/** Words of what the plan says of each query token, in the order of the struct `Span` of shaders/attention/score.wgsl. */
export const spanWords = 6;

/** A merge row: token, first partial, count of partials. */
export const mergeWords = 3;
export const noPartial = 0xffffffff;

const indexOf = Object.fromEntries(header.map((name, index) => [name, index])) as Readonly<Record<HeaderField, number>>;

/** Set in a token id: the id is not here but in `sampled`, at the row in the lower bits. */
export const sampledToken = 0x80000000;

/** WGSL constants of the layout above, for the kernels' preludes. */
export const planPrelude = [
  ...header.map((name, index) => `const ${name} = ${index}u;`),
  ...item.map((name, index) => `const ${name} = ${index}u;`),
  `const ITEM_WORDS = ${itemWords}u;`,
  `const SPAN_WORDS = ${spanWords}u;`,
  `const MERGE_WORDS = ${mergeWords}u;`,
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

  /** Adds f32 values, none below `least`, behind what is there; `field` says where the first of several such runs begins. @returns where this one does. */
  append(field: HeaderField, values: ArrayLike<number>, least: number): number {
    const first = this.read(field);
    const at = this.#length;
    const { f32 } = this.section(field, values.length);
    for (let i = 0; i < values.length; i++) f32[i] = Math.max(least, values[i]);
    if (first > 0) this.count(field, first);
    return at;
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
  /** False: every token sees the whole sequence, later tokens too. */
  readonly causal?: boolean;
  /** Rotary positions of the new tokens, where they are not their places in the sequence: the nodes of a tree. */
  readonly positions?: readonly number[];
  /** Ranges [begin, end) of the sequence whose tokens see one another in both directions, in order and apart. */
  readonly bidirectional?: readonly (readonly [begin: number, end: number])[];
  /** f32 [queryLen][queryLen]: added to the scores of new tokens (rows) for new tokens (columns); -1e30 and less masks. */
  readonly queryBias?: ArrayLike<number>;
}

/** How work is cut. */
export interface PlanShape {
  readonly blockSize: number;
  /** Query tokens of one prefill work item. */
  readonly prefillTokens: number;
  /** Keys of one decode work item; longer rows are split. */
  readonly segmentKeys: number;
  /** Partial states that there is room for. */
  readonly maxPartials: number;
  /** Longest query of several tokens whose rows are split, into as many as there is room for: a draft to verify. Longer ones occupy the GPU by themselves. */
  readonly maxSplitQuery: number;
  /** Single tokens go to the decode kernel; false: all go to the prefill kernel. */
  readonly filterByQueryLen: boolean;
  /** Runs of neighbouring sequences that share their first keys, in order and apart. */
  readonly cascades: readonly Cascade[];
}

/** Sequences [first, first + count) of a batch have their first `prefixLen` keys in common. */
export interface Cascade {
  readonly first: number;
  readonly count: number;
  readonly prefixLen: number;
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
  readonly leastWorkgroups: number;
  /** As `PlanShape.maxSplitQuery`. */
  readonly maxSplitQuery: number;
}

/**
 * Partial states to have room for: as many as decode rows can be split into (see `chooseSegmentKeys`), one for each sequence's row of a cascade, and as many as a
 * GPU's worth of work for drafts: a lone sequence of the longest context is split whose draft is as long as may be.
 */
export function maxPartials(limits: PlanLimits): number {
  const { maxSequences, maxBlocksPerSequence, blockSize, minSegmentKeys, targetWorkgroups, leastWorkgroups, maxSplitQuery } = limits;
  const maxSegments = Math.ceil((maxBlocksPerSequence * blockSize) / minSegmentKeys);
  const shortSegments = Math.ceil((maxBlocksPerSequence * blockSize) / segmentUnit);
  const decode = Math.max(
    Math.min(maxSequences * maxSegments, targetWorkgroups + maxSequences),
    Math.min(maxSequences * shortSegments, leastWorkgroups + maxSequences),
  );
  return decode + maxSequences + Math.min(maxSplitQuery * maxSegments, targetWorkgroups);
}

/** Words that hold any step without query-query biases, the caller's own sections not counted. */
export function maxPlanWords(limits: PlanLimits): number {
  const { maxTokensPerStep, maxSequences, maxBlocksPerSequence } = limits;
  const perToken = 2 + spanWords + itemWords + mergeWords;
  const perSequence = itemWords + 2 * maxBlocksPerSequence + 2;
  return header.length + maxTokensPerStep * perToken + 2 * maxPartials(limits) * itemWords + maxSequences * perSequence;
}

/** The work on one sequence's keys [begin, end): segment numbers from `firstSegment` on, or NO_PARTIAL alone. */
interface Cut {
  readonly begin: number;
  readonly end: number;
  readonly segments: number;
}

/**
 * Packs the per-token and per-item sections of a batch. Sequences with one new token become decode items (several, where their keys are
 * split), those with more become prefill items; a sequence with none contributes nothing. Every token is in exactly one kind, but where a
 * cascade shares keys: these keys are prefill items of the tokens of all its sequences, and the merge joins the two.
 */
export function packBatch(writer: PlanWriter, batch: readonly PlannedSequence[], shape: PlanShape): PlanCounts {
  const { blockSize, prefillTokens, segmentKeys, filterByQueryLen } = shape;
  const isDecode = ({ queryLen }: PlannedSequence) => queryLen === 1 && filterByQueryLen;
  const segmentsOf = ({ seqLen }: PlannedSequence, prefixLen: number) => Math.max(1, Math.ceil((seqLen - prefixLen) / segmentKeys));
  // Rows of several tokens share what the single ones leave of the partial states: those can always be split, and have a state for a prefix.
  let room = shape.maxPartials;
  for (const sequence of batch) if (isDecode(sequence) && segmentsOf(sequence, 0) > 1) room -= segmentsOf(sequence, 0);
  const cascades = shape.cascades.filter(({ first, count }) => {
    const needed = batch.slice(first, first + count).reduce((sum, one) => sum + (isDecode(one) ? 2 : 2 * one.queryLen), 0);
    if (needed > room) return false;
    room -= needed;
    return true;
  });
  // What is left after that, drafts share evenly.
  const isDraft = (one: PlannedSequence) => !isDecode(one) && one.queryLen <= shape.maxSplitQuery && segmentsOf(one, 0) > 1;
  const draftTokens = batch.reduce((sum, one) => sum + (isDraft(one) ? one.queryLen : 0), 0);
  const mostSegments = Math.max(1, Math.floor(room / Math.max(1, draftTokens)));
  /** Into how many segments the keys from `prefixLen` on are cut. None is empty. */
  const cutsOf = (one: PlannedSequence, prefixLen: number) => {
    const wanted = segmentsOf(one, prefixLen);
    if (isDecode(one)) return wanted;
    if (!isDraft(one)) return 1;
    const keys = Math.max(1, one.seqLen - prefixLen);
    return Math.ceil(keys / Math.ceil(keys / Math.min(wanted, mostSegments)));
  };
  const numTokens = batch.reduce((sum, { queryLen }) => sum + queryLen, 0);
  const positions = writer.section('POSITIONS', numTokens).u32;
  const slotMapping = writer.section('SLOT_MAPPING', numTokens).u32;
  const spans = writer.section('SPANS', numTokens * spanWords).u32;
  const decodeItems: number[] = [];
  const prefillItems: number[] = [];
  const mergeRows: number[] = [];
  let numPartials = 0;
  let token = 0;

  const addPrefill = (
    first: number,
    tokens: number,
    tableRow: number,
    cut: Cut,
    keyEnd: (token: number) => number,
    firstSegment: number,
  ) => {
    for (let at = 0; at < tokens; at += prefillTokens) {
      const count = Math.min(prefillTokens, tokens - at);
      const end = Math.min(cut.end, keyEnd(at + count - 1));
      const keys = Math.ceil((cut.end - cut.begin) / cut.segments);
      for (let s = 0; s < cut.segments; s++) {
        const segment = firstSegment === noPartial ? noPartial : firstSegment + s;
        const begin = cut.begin + s * keys;
        prefillItems.push(first + at, count, tableRow, begin, Math.max(begin, Math.min(end, begin + keys)), segment);
      }
    }
  };

  batch.forEach((sequence, index) => {
    const { tableRow, blocks, seqLen, queryLen, causal = true, bidirectional = [], queryBias } = sequence;
    const contextLen = seqLen - queryLen;
    const cascade = cascades.find(({ first, count }) => index >= first && index < first + count);
    const prefixLen = cascade?.prefixLen ?? 0;
    const prefixSegments = prefixLen > 0 ? 1 : 0;
    const segments = cutsOf(sequence, prefixLen);
    const states = prefixSegments + segments;
    const firstPartial = numPartials;
    const biasAt = queryBias ? writer.append('BIASES', queryBias, -3e38) : 0;
    const rangeAt = (key: number) => bidirectional.find(([begin, end]) => key >= begin && key < end);
    const keyEndOf = (key: number) => (causal ? (rangeAt(key)?.[1] ?? key + 1) : seqLen);

    for (let i = 0; i < queryLen; i++) {
      const key = contextLen + i;
      positions[token + i] = sequence.positions?.[i] ?? key;
      slotMapping[token + i] = blocks[Math.floor(key / blockSize)] * blockSize + (key % blockSize);
      const keyEnd = Math.min(seqLen, keyEndOf(key));
      const rangeBegin = causal ? (rangeAt(key)?.[0] ?? key) : seqLen;
      const bias = queryBias ? biasAt + i * queryLen : 0;
      spans.set([key, rangeBegin, keyEnd, firstPartial + i * states, bias, contextLen], (token + i) * spanWords);
      if (states > 1) mergeRows.push(token + i, firstPartial + i * states, states);
    }
    if (states > 1) numPartials += queryLen * states;
    const firstSegment = states > 1 ? prefixSegments : noPartial;
    if (isDecode(sequence)) {
      const keys = Math.ceil((seqLen - prefixLen) / segments);
      for (let s = 0; s < segments; s++) {
        const begin = prefixLen + s * keys;
        const segment = states > 1 ? prefixSegments + s : noPartial;
        decodeItems.push(token, 1, tableRow, begin, Math.min(seqLen, begin + keys), segment);
      }
    } else if (queryLen > 0) {
      const keyEnd = (i: number) => keyEndOf(contextLen + i);
      addPrefill(token, queryLen, tableRow, { begin: prefixLen, end: seqLen, segments }, keyEnd, firstSegment);
    }
    if (cascade && index === cascade.first) {
      const tokens = batch.slice(index, index + cascade.count).reduce((sum, one) => sum + one.queryLen, 0);
      addPrefill(token, tokens, tableRow, { begin: 0, end: prefixLen, segments: 1 }, () => prefixLen, 0);
    }
    token += queryLen;
  });
  writeLongestFirst(writer, 'DECODE_ITEMS', decodeItems);
  writeLongestFirst(writer, 'PREFILL_ITEMS', prefillItems);
  writer.section('MERGE_ROWS', mergeRows.length).u32.set(mergeRows);
  const counts = {
    numTokens,
    numDecodeItems: decodeItems.length / itemWords,
    numPrefillItems: prefillItems.length / itemWords,
    numMergeRows: mergeRows.length / mergeWords,
    numPartials,
  };
  writer.count('NUM_TOKENS', numTokens);
  writer.count('NUM_DECODE_ITEMS', counts.numDecodeItems);
  writer.count('NUM_PREFILL_ITEMS', counts.numPrefillItems);
  writer.count('NUM_MERGE_ROWS', counts.numMergeRows);
  return counts;
}

/** Writes a section of work items in the order of their keys, so that the last workgroups to run are short ones. */
function writeLongestFirst(writer: PlanWriter, field: HeaderField, items: readonly number[]): void {
  const count = items.length / itemWords;
  // Longest first and then in order, as one number each: sorted several times as fast as by a comparison.
  const order = new Float64Array(count);
  for (let i = 0; i < count; i++) order[i] = i - count * (items[i * itemWords + 4] - items[i * itemWords + 3]);
  order.sort();
  const { u32 } = writer.section(field, items.length);
  for (let to = 0; to < count; to++) {
    const from = ((order[to] % count) + count) % count;
    for (let word = 0; word < itemWords; word++) u32[to * itemWords + word] = items[from * itemWords + word];
  }
}

/** How decode rows are cut into work items; the attention options `targetWorkgroups` and `minSegmentKeys` say it, too. */
export interface Split {
  /** Workgroups to leave to the GPU, about. */
  readonly targetWorkgroups: number;
  /** Fewest keys of a part: a shorter one costs more in the merge than it wins. */
  readonly minSegmentKeys: number;
  /** Where no row is longer, none is split, which saves the launch that merges; default `minSegmentKeys`. */
  readonly unsplitKeys?: number;
  /**
   * Where all rows are single tokens, and parts of `minSegmentKeys` would be fewer workgroups, parts are shorter, of 64 keys at least: cores that idle
   * cost more yet. Default 0.
   */
  readonly leastWorkgroups?: number;
}

/** Keys of a tile of any decode kernel, about: the shortest part, and the steps in which a part's length is reckoned. */
const segmentUnit = 64;

/** The rows of single tokens of a batch: how many, their keys, and the longest one's. */
export function singleTokens(batch: readonly Pick<PlannedSequence, 'queryLen' | 'seqLen'>[]): {
  readonly rows: number;
  readonly keys: number;
  readonly longest: number;
} {
  let rows = 0;
  let keys = 0;
  let longest = 0;
  for (const { queryLen, seqLen } of batch) {
    if (queryLen !== 1) continue;
    rows++;
    keys += seqLen;
    longest = Math.max(longest, seqLen);
  }
  return { rows, keys, longest };
}

/** Chooses how many keys one work item takes, at most: every row is cut into equal parts that are no longer. */
export function chooseSegmentKeys(batch: readonly PlannedSequence[], workgroupsPerItem: number, split: Split): number {
  const { targetWorkgroups, minSegmentKeys, unsplitKeys = minSegmentKeys, leastWorkgroups = 0 } = split;
  if (batch.every(({ seqLen }) => seqLen <= unsplitKeys)) return unsplitKeys;
  const { keys, longest } = singleTokens(batch);
  const even = (workgroups: number) => Math.ceil((keys * workgroupsPerItem) / workgroups / segmentUnit) * segmentUnit;
  const mayBeFew = leastWorkgroups > 0 && batch.every(({ queryLen }) => queryLen === 1);
  const least = mayBeFew ? Math.min(minSegmentKeys, even(leastWorkgroups)) : minSegmentKeys;
  const wanted = even(targetWorkgroups);
  if (wanted <= least) return least;
  // Whole parts of the longest row: a small rest would be workgroups for which the others leave no place, and which run when these are done.
  return Math.ceil(longest / Math.max(1, Math.floor(longest / wanted)));
}

/** How the batches of a kernel are cut that serves large ones alone, and which these are. */
export interface LargeSplit extends Split {
  /** Keys of a part, on average, from which on a batch is large whose rows another kernel cuts, too. */
  readonly leastKeys: number;
  /** The same for one row, which is many states to merge, and where another kernel would leave rows whole and have nothing to merge. */
  readonly leastWholeKeys: number;
}

/** As `chooseSegmentKeys`; undefined for batches that are not large. @param segmentKeys what it chose for the kernel that serves these */
export function chooseLargeSegmentKeys(
  batch: readonly PlannedSequence[],
  workgroupsPerItem: number,
  segmentKeys: number,
  split: LargeSplit,
): number | undefined {
  const { rows, keys, longest } = singleTokens(batch);
  const isCut = rows > 1 && longest > segmentKeys;
  const least = isCut ? split.leastKeys : split.leastWholeKeys;
  return keys * workgroupsPerItem >= least * split.targetWorkgroups ? chooseSegmentKeys(batch, workgroupsPerItem, split) : undefined;
}
