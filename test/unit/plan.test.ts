import { describe, expect, it } from 'vitest';
import {
  chooseLargeSegmentKeys,
  chooseSegmentKeys,
  type HeaderField,
  itemWords,
  maxPartials,
  maxPlanWords,
  mergeWords,
  noPartial,
  type PlannedSequence,
  PlanWriter,
  packBatch,
  planPrelude,
} from '../../src/attention/plan.ts';
import { CapacityExceededError } from '../../src/errors.ts';
import { type Random, random } from '../harness/random.ts';

/** The layout as WGSL sees it. */
const layout = new Map([...planPrelude.matchAll(/const (\w+) = (\d+)u;/g)].map(([, name, value]) => [name!, Number(value)]));
const at = (name: string): number => layout.get(name)!;

interface Item {
  readonly token: number;
  readonly tokens: number;
  readonly position: number;
  readonly tableRow: number;
  readonly keyBegin: number;
  readonly keyEnd: number;
  readonly partial: number;
}

/** Reads a plan as the kernels do: through the header's offsets and the prelude's constants only. */
function readPlan(words: Uint32Array) {
  const records = (field: string, count: string, length: number) =>
    Array.from({ length: words[at(count)]! }, (_, i) => [...words.subarray(words[at(field)]! + i * length).subarray(0, length)]);
  const spans = records('SPANS', 'NUM_TOKENS', at('SPAN_WORDS'));
  const items = (field: string, count: string): Item[] =>
    records(field, count, itemWords).map((record) => ({
      token: record[at('ITEM_TOKEN')]!,
      tokens: record[at('ITEM_TOKENS')]!,
      position: spans[record[at('ITEM_TOKEN')]!]![0]!,
      tableRow: record[at('ITEM_TABLE_ROW')]!,
      keyBegin: record[at('ITEM_KEY_BEGIN')]!,
      keyEnd: record[at('ITEM_KEY_END')]!,
      partial: record[at('ITEM_SEGMENT')] === noPartial ? noPartial : spans[record[at('ITEM_TOKEN')]!]![3]! + record[at('ITEM_SEGMENT')]!,
    }));
  return {
    spans,
    positions: records('POSITIONS', 'NUM_TOKENS', 1).flat(),
    slots: records('SLOT_MAPPING', 'NUM_TOKENS', 1).flat(),
    decode: items('DECODE_ITEMS', 'NUM_DECODE_ITEMS'),
    prefill: items('PREFILL_ITEMS', 'NUM_PREFILL_ITEMS'),
    merges: records('MERGE_ROWS', 'NUM_MERGE_ROWS', mergeWords) as [token: number, first: number, count: number][],
  };
}

function randomBatch(numbers: Random, sequences: number, blockSize: number): PlannedSequence[] {
  return Array.from({ length: sequences }, (_, i) => {
    const queryLen = [0, 1, 1, 1, 2, 1 + numbers.integer(70)][numbers.integer(6)]!;
    const seqLen = queryLen + numbers.integer([1, 20, 900][numbers.integer(3)]!);
    const blocks = Array.from({ length: Math.ceil(seqLen / blockSize) }, () => 1 + numbers.integer(1000));
    return { tableRow: sequences - i, blocks, seqLen, queryLen };
  });
}

const whole = { maxPartials: 100_000, maxSplitQuery: 0, filterByQueryLen: true, cascades: [] };
const shapes = [
  { ...whole, blockSize: 8, prefillTokens: 1, segmentKeys: 7 },
  { ...whole, blockSize: 16, prefillTokens: 8, segmentKeys: 64 },
  { ...whole, blockSize: 16, prefillTokens: 32, segmentKeys: 37 },
  { ...whole, blockSize: 64, prefillTokens: 3, segmentKeys: 100_000 },
];

describe.each(shapes)('packBatch with $blockSize, $prefillTokens, $segmentKeys', (shape) => {
  const numbers = random(shape.segmentKeys);
  const batches = Array.from({ length: 20 }, (_, i) => randomBatch(numbers, i, shape.blockSize));
  const packed = batches.map((batch) => {
    const writer = new PlanWriter(100_000);
    writer.begin();
    const counts = packBatch(writer, batch, shape);
    const tokens = batch.flatMap((sequence) =>
      Array.from({ length: sequence.queryLen }, (_, i) => ({ sequence, position: sequence.seqLen - sequence.queryLen + i })),
    );
    return { batch, counts, words: writer.words, plan: readPlan(writer.words), tokens };
  });

  it('gives every token its position and slot', () => {
    for (const { plan, tokens } of packed) {
      expect(plan.positions).toEqual(tokens.map(({ position }) => position));
      const slots = tokens.map(({ sequence, position }) => {
        const block = sequence.blocks[Math.floor(position / shape.blockSize)]!;
        return block * shape.blockSize + (position % shape.blockSize);
      });
      expect(plan.slots).toEqual(slots);
    }
  });

  it('puts every token into one kind of item, single ones into decode items', () => {
    for (const { plan, tokens } of packed) {
      const decoded = new Set(plan.decode.map(({ token }) => token));
      const prefilled = plan.prefill.flatMap(({ token, tokens }) => Array.from({ length: tokens }, (_, i) => token + i));
      expect(plan.decode.every(({ tokens }) => tokens === 1)).toBe(true);
      expect(plan.prefill.every(({ tokens }) => tokens >= 1 && tokens <= shape.prefillTokens)).toBe(true);
      expect([...decoded, ...prefilled].sort((a, b) => a - b)).toEqual(tokens.map((_, i) => i));
      expect(new Set(prefilled).size).toBe(prefilled.length);
      expect([...decoded].every((token) => tokens[token]!.sequence.queryLen === 1)).toBe(true);
    }
  });

  it('gives items the position, table row and causal keys of their tokens', () => {
    for (const { plan, tokens } of packed) {
      for (const item of [...plan.decode, ...plan.prefill]) {
        const { sequence, position } = tokens[item.token]!;
        expect(item.position).toBe(position);
        expect(item.tableRow).toBe(sequence.tableRow);
        expect(tokens[item.token + item.tokens - 1]!.sequence).toBe(sequence);
      }
      for (const item of plan.prefill) {
        expect([item.keyBegin, item.keyEnd, item.partial]).toEqual([0, item.position + item.tokens, noPartial]);
      }
    }
  });

  it('cuts the keys of a decode row into segments that join without gap or overlap', () => {
    for (const { plan, tokens } of packed) {
      for (const token of new Set(plan.decode.map((item) => item.token))) {
        const segments = plan.decode.filter((item) => item.token === token).sort((a, b) => a.keyBegin - b.keyBegin);
        let reached = 0;
        for (const { keyBegin, keyEnd } of segments) {
          expect(keyBegin).toBe(reached);
          expect(keyEnd).toBeGreaterThan(keyBegin);
          expect(keyEnd - keyBegin).toBeLessThanOrEqual(shape.segmentKeys);
          reached = keyEnd;
        }
        expect(reached).toBe(tokens[token]!.sequence.seqLen);
      }
    }
  });

  it('merges exactly the split rows, each from its own partial states', () => {
    for (const { plan, counts } of packed) {
      const split = plan.decode.filter(({ partial }) => partial !== noPartial);
      expect(split.map(({ partial }) => partial).sort((a, b) => a - b)).toEqual(Array.from({ length: counts.numPartials }, (_, i) => i));
      const merged = plan.merges.map(([token, first, count]) => [token, Array.from({ length: count }, (_, i) => first + i)]);
      const rows = [...new Set(split.map(({ token }) => token))].sort((a, b) => a - b);
      const partialsOf = (token: number) =>
        split
          .filter((item) => item.token === token)
          .map(({ partial }) => partial)
          .sort((a, b) => a - b);
      expect(merged).toEqual(rows.map((token) => [token, partialsOf(token)]));
      const segments = (token: number) => plan.decode.filter((item) => item.token === token).length;
      expect(plan.decode.every(({ token, partial }) => (partial === noPartial) === (segments(token) === 1))).toBe(true);
    }
  });

  it('puts items of more keys before those of fewer', () => {
    for (const { plan } of packed) {
      for (const items of [plan.decode, plan.prefill]) {
        const keys = items.map(({ keyBegin, keyEnd }) => keyEnd - keyBegin);
        expect(keys).toEqual([...keys].sort((a, b) => b - a));
      }
    }
  });

  it('counts what it wrote, in sections that do not overlap', () => {
    for (const { counts, words, plan } of packed) {
      expect([plan.positions.length, plan.decode.length, plan.prefill.length, plan.merges.length]).toEqual([
        counts.numTokens,
        counts.numDecodeItems,
        counts.numPrefillItems,
        counts.numMergeRows,
      ]);
      const sizes: readonly (readonly [HeaderField, number])[] = [
        ['POSITIONS', counts.numTokens],
        ['SLOT_MAPPING', counts.numTokens],
        ['SPANS', counts.numTokens * at('SPAN_WORDS')],
        ['DECODE_ITEMS', counts.numDecodeItems * itemWords],
        ['PREFILL_ITEMS', counts.numPrefillItems * itemWords],
        ['MERGE_ROWS', counts.numMergeRows * mergeWords],
      ];
      const ranges = sizes.map(([field, size]) => [words[at(field)]!, words[at(field)]! + size]).sort((a, b) => a[0]! - b[0]!);
      const headerWords = 1 + at('STOP_TOKENS');
      let end = headerWords;
      for (const [begin, next] of ranges) {
        expect(begin).toBeGreaterThanOrEqual(end);
        end = next!;
      }
      expect(words.length).toBe(end);
    }
  });
});

const decodeOnly = (lengths: readonly number[]): PlannedSequence[] =>
  lengths.map((seqLen, tableRow) => ({ tableRow, blocks: Array(Math.ceil(seqLen / 16)).fill(1), seqLen, queryLen: 1 }));

describe('chooseLargeSegmentKeys', () => {
  const split = { targetWorkgroups: 2048, minSegmentKeys: 128, leastKeys: 144, leastWholeKeys: 512 };
  /** @param segmentKeys of the other kernel's parts */
  const keysOf = (lengths: readonly number[], segmentKeys: number) => chooseLargeSegmentKeys(decodeOnly(lengths), 8, segmentKeys, split);
  const rows = (count: number, length: number) => Array<number>(count).fill(length);

  it('takes batches of many keys that are cut anyway, and cuts them into as many parts as said', () => {
    expect(keysOf(rows(8, 4096), 512)).toBe(undefined);
    expect(keysOf(rows(9, 4096), 512)).toBe(196); // 21 parts: 144 keys each, of whole steps of 64, would be as many workgroups as wanted
    expect(keysOf([...rows(31, 700), 16384], 1024)).toBe(193);
  });

  it('takes more keys for a row alone, and where rows would be whole', () => {
    expect([65536, 131072].map((length) => keysOf([length], 1024))).toEqual([undefined, 512]);
    expect([rows(64, 1024), rows(64, 2048), rows(64, 4096)].map((lengths) => keysOf(lengths, lengths[0]!))).toEqual([undefined, 512, 1024]);
  });

  it('counts single tokens alone', () => {
    const prefill = { tableRow: 0, blocks: [], seqLen: 1_000_000, queryLen: 2 };
    expect(chooseLargeSegmentKeys([prefill, prefill], 8, 512, split)).toBe(undefined);
    expect(chooseLargeSegmentKeys([...decodeOnly(rows(9, 4096)), prefill], 8, 512, split)).toBe(196);
  });
});

describe('chooseSegmentKeys', () => {
  it('leaves short rows whole', () => {
    expect(chooseSegmentKeys(decodeOnly([10, 200]), 4, { targetWorkgroups: 512, minSegmentKeys: 256 })).toBe(256);
    expect(chooseSegmentKeys([], 4, { targetWorkgroups: 512, minSegmentKeys: 256 })).toBe(256);
  });

  it('counts the keys of single-token rows only', () => {
    const prefill = [{ tableRow: 0, blocks: [], seqLen: 1_000_000, queryLen: 2 }];
    expect(chooseSegmentKeys(prefill, 4, { targetWorkgroups: 8, minSegmentKeys: 256 })).toBe(256);
  });

  it('cuts no row for a small rest', () => {
    const split = { targetWorkgroups: 512, minSegmentKeys: 128 };
    const partsOf = (count: number, length: number) =>
      Math.ceil(length / chooseSegmentKeys(decodeOnly(Array(count).fill(length)), 8, split));
    expect([32, 33, 60, 64, 65, 100].map((count) => partsOf(count, 2048))).toEqual([2, 1, 1, 1, 1, 1]);
    expect([1, 7, 8].map((count) => partsOf(count, 65536))).toEqual([64, 9, 8]);
  });

  it('makes shorter parts where workgroups would be few', () => {
    const split = { targetWorkgroups: 512, minSegmentKeys: 128, unsplitKeys: 256, leastWorkgroups: 128 };
    const keysOf = (lengths: readonly number[]) => chooseSegmentKeys(decodeOnly(lengths), 8, split);
    expect([[200], [300], [1024], [1025], [2048], [4096], [65536], [1024, 1024]].map(keysOf)).toEqual([
      256, 64, 64, 128, 128, 128, 1024, 128,
    ]);
    expect(chooseSegmentKeys([{ tableRow: 0, blocks: [], seqLen: 1000, queryLen: 2 }], 8, split)).toBe(128);
    expect(chooseSegmentKeys([...decodeOnly([300]), { tableRow: 1, blocks: [], seqLen: 1000, queryLen: 2 }], 8, split)).toBe(128);
  });

  it.each([1, 2, 3])('stays near the number of workgroups wanted, seed %i', (seed) => {
    const numbers = random(seed);
    for (let round = 0; round < 200; round++) {
      const lengths = Array.from({ length: 1 + numbers.integer(40) }, () => 1 + numbers.integer([100, 2000, 50_000][round % 3]!));
      const perItem = 1 + numbers.integer(8);
      const target = 1 + numbers.integer(1000);
      const least = 1 + numbers.integer(300);
      const keys = chooseSegmentKeys(decodeOnly(lengths), perItem, { targetWorkgroups: target, minSegmentKeys: least });
      expect(keys).toBeGreaterThanOrEqual(least);
      const workgroups = lengths.reduce((sum, length) => sum + Math.ceil(length / keys), 0) * perItem;
      expect(workgroups).toBeLessThanOrEqual(target + lengths.length * perItem);
      if (keys === least) continue;
      // The longest row has as many parts as even ones of whole tiles would be, but for the rest.
      const longest = Math.max(...lengths);
      const even = Math.ceil((lengths.reduce((a, b) => a + b) * perItem) / target / 64) * 64;
      expect(Math.ceil(longest / keys)).toBe(Math.max(1, Math.floor(longest / even)));
    }
  });
});

describe('a draft', () => {
  const limits = {
    maxTokensPerStep: 512,
    maxSequences: 1,
    maxBlocksPerSequence: 256,
    blockSize: 16,
    minSegmentKeys: 128,
    targetWorkgroups: 512,
    leastWorkgroups: 0,
    maxSplitQuery: 16,
  };
  const draft = (seqLen: number, queryLen: number, tableRow = 0): PlannedSequence => ({
    ...{ tableRow, seqLen, queryLen },
    blocks: Array(Math.ceil(seqLen / 16)).fill(1),
  });
  function pack(batch: readonly PlannedSequence[], room = maxPartials(limits), maxSplitQuery = 16) {
    const writer = new PlanWriter(100_000);
    writer.begin();
    const segmentKeys = chooseSegmentKeys(batch, 4, limits);
    const shape = { ...whole, blockSize: 16, prefillTokens: 16, segmentKeys, maxPartials: room, maxSplitQuery };
    const counts = packBatch(writer, batch, shape);
    return { counts, plan: readPlan(writer.words) };
  }

  /** Each token's keys, in order: without gap, overlap or empty part. */
  function expectWhole({ plan }: ReturnType<typeof pack>, batch: readonly PlannedSequence[]): void {
    const lengths = batch.flatMap(({ seqLen, queryLen }) => Array.from({ length: queryLen }, (_, i) => seqLen - queryLen + i + 1));
    lengths.forEach((length, token) => {
      const parts = [...plan.decode, ...plan.prefill].filter((item) => token >= item.token && token < item.token + item.tokens);
      parts.sort((a, b) => a.keyBegin - b.keyBegin);
      let reached = 0;
      for (const { keyBegin, keyEnd } of parts) {
        expect(keyBegin).toBe(reached);
        expect(keyEnd).toBeGreaterThan(keyBegin);
        reached = keyEnd;
      }
      expect(reached).toBeGreaterThanOrEqual(length);
    });
  }

  it.each([2, 5, 16])('of %i tokens is split over the longest context, also of a lone sequence', (queryLen) => {
    const batch = [draft(4096, queryLen)];
    const packed = pack(batch);
    expect(packed.counts).toMatchObject({ numPrefillItems: 32, numMergeRows: queryLen, numPartials: 32 * queryLen });
    expect(packed.plan.merges.map(([, , count]) => count)).toEqual(Array(queryLen).fill(32));
    expectWhole(packed, batch);
  });

  it('is split into fewer parts where there is less room, and evenly among several', () => {
    const batch = [draft(4096, 8, 0), draft(4000, 4, 1), draft(100, 4, 2), draft(3000, 1, 3)];
    const { counts: decode } = pack([batch[3]!], 1000);
    const packed = pack(batch, decode.numPartials + 12 * 5 + 11);
    expect(packed.plan.merges.map(([, , count]) => count)).toEqual([...Array(12).fill(5), decode.numPartials]);
    expectWhole(packed, batch);
  });

  it.each([
    ['without room', [draft(4096, 8)], 15, 16],
    ['of more tokens', [draft(4096, 17)], 10_000, 16],
    ['over few keys', [draft(128, 8)], 10_000, 16],
    ['where batches must not matter', [draft(4096, 8)], 10_000, 0],
  ] as const)('is not split %s', (_, batch, room, maxSplitQuery) => {
    expect(pack(batch, room, maxSplitQuery).counts.numMergeRows).toBe(0);
  });

  it.each([1, 2, 3])('never takes more than there is, and leaves no part empty, seed %i', (seed) => {
    const numbers = random(seed);
    for (let round = 0; round < 100; round++) {
      const batch = Array.from({ length: 1 + numbers.integer(6) }, (_, i) => {
        const queryLen = 1 + numbers.integer(20);
        return draft(queryLen + numbers.integer([300, 5000][numbers.integer(2)]!), queryLen, i);
      });
      const alone = batch.filter(({ queryLen }) => queryLen === 1);
      const room = pack(alone, 10_000).counts.numPartials + numbers.integer(400);
      const packed = pack(batch, room);
      expect(packed.counts.numPartials).toBeLessThanOrEqual(room);
      if (alone.length === 0) expectWhole(packed, batch);
    }
  });
});

describe('the size of a plan', () => {
  it.each([1, 2, 3, 4])('holds any step within the limits, seed %i', (seed) => {
    const numbers = random(seed);
    for (let round = 0; round < 50; round++) {
      const targetWorkgroups = 1 + numbers.integer(200);
      const split = {
        targetWorkgroups,
        minSegmentKeys: 1 + numbers.integer(200),
        leastWorkgroups: round % 2 === 0 ? 0 : 1 + numbers.integer(200),
      };
      const limits = {
        maxTokensPerStep: 1 + numbers.integer(100),
        maxSequences: 1 + numbers.integer(20),
        maxBlocksPerSequence: 1 + numbers.integer(100),
        blockSize: 8 * (1 + numbers.integer(8)),
        ...split,
        maxSplitQuery: [0, 16][numbers.integer(2)]!,
      };
      const { maxTokensPerStep, maxSequences, maxBlocksPerSequence, blockSize, maxSplitQuery } = limits;
      let budget = maxTokensPerStep;
      const batch: PlannedSequence[] = [];
      for (let tableRow = 0; tableRow < maxSequences && budget > 0; tableRow++) {
        const seqLen = maxBlocksPerSequence * blockSize;
        const queryLen = Math.min(budget, seqLen, numbers.uniform() < 0.8 ? 1 : 1 + numbers.integer(30));
        budget -= queryLen;
        batch.push({ tableRow, blocks: Array(maxBlocksPerSequence).fill(1), seqLen, queryLen });
      }
      const writer = new PlanWriter(maxPlanWords(limits));
      writer.begin();
      const segmentKeys = chooseSegmentKeys(batch, 1, split);
      const { numPartials } = packBatch(writer, batch, {
        ...{ blockSize, prefillTokens: 1, segmentKeys, maxPartials: maxPartials(limits), maxSplitQuery },
        ...{ filterByQueryLen: numbers.uniform() < 0.8, cascades: [] },
      });
      expect(numPartials).toBeLessThanOrEqual(maxPartials(limits));
      writer.section('TABLE_UPDATES', 2 * maxSequences * maxBlocksPerSequence);
    }
  });

  it('is checked when a section is opened', () => {
    const headerWords = 1 + at('STOP_TOKENS');
    const writer = new PlanWriter(headerWords + 4);
    writer.begin();
    writer.section('TOKEN_IDS', 3).u32.set([7, 8, 9]);
    expect(() => writer.section('LOGIT_ROWS', 2)).toThrow(CapacityExceededError);
    const { f32 } = writer.section('SAMPLING', 1);
    f32[0] = 0.5;
    expect(writer.read('TOKEN_IDS')).toBe(headerWords);
    expect([...writer.words.subarray(headerWords)]).toEqual([7, 8, 9, 0x3f000000]);
    writer.count('NUM_TOKENS', 3);
    writer.begin();
    expect(writer.read('NUM_TOKENS')).toBe(0);
    expect(writer.words.length).toBe(headerWords);
  });
});
