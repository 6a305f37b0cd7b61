import { afterAll, describe, expect, it, vi } from 'vitest';
import {
  CapacityExceededError,
  InvalidArgumentError,
  KvCache,
  LaunchCache,
  LimitExceededError,
  PagedAttention,
  type PagedAttentionOptions,
} from '../../src/index.ts';
import { fakeGpu } from './fake-gpu.ts';

afterAll(() => vi.unstubAllGlobals());

function open(options: Partial<PagedAttentionOptions> = {}, headDim = 16, workgroupMemory = 16384) {
  const fake = fakeGpu();
  const limits = { ...fake.gpu.limits, maxComputeWorkgroupStorageSize: workgroupMemory };
  const gpu = { ...fake.gpu, limits };
  const kv = new KvCache(gpu, {
    numLayers: 1,
    numBlocks: 200,
    maxSequences: 3,
    maxBlocksPerSequence: 60,
    blockSize: 8,
    numKvHeads: 2,
    headDim,
    dtype: 'f32',
  });
  const attention = new PagedAttention(new LaunchCache(gpu), kv, { numHeads: 4, maxTokensPerStep: 20, ...options });
  return { ...fake, kv, attention, writer: attention.writer };
}

/** Nothing is launched by an attention that is not prepared. */
const noPass = {} as GPUComputePassEncoder;

describe('options', () => {
  it.each([
    ['numHeads', [0, -2, 3, 2.5, Number.NaN]],
    ['maxTokensPerStep', [0, -1, 1.5, Number.NaN]],
    ['minSegmentKeys', [0, -1, 1.5, Number.NaN]],
    ['targetWorkgroups', [0, -1, 1.5, Number.NaN]],
    ['maxInvocations', [0, 1.5, 257, Number.NaN]],
  ] as const)('%s is checked', (name, values) => {
    for (const value of values) expect(() => open({ [name]: value }), `${name} = ${value}`).toThrow(InvalidArgumentError);
  });

  it('heads that fit into no workgroup are refused', () => {
    open({}, 256, 16384);
    expect(() => open({}, 256, 4096)).toThrow(LimitExceededError);
  });
});

describe('plan', () => {
  it('refuses more tokens than a step may have, and keeps the last plan', () => {
    const { kv, attention, writer } = open();
    const sequence = kv.open();
    kv.extend(sequence, 30);
    attention.plan([{ sequence, queryLen: 20 }]);
    const before = [...writer.words];
    expect(() => attention.plan([{ sequence, queryLen: 21 }])).toThrow(CapacityExceededError);
    const other = kv.open();
    kv.extend(other, 30);
    const two = [
      { sequence, queryLen: 11 },
      { sequence: other, queryLen: 10 },
    ];
    expect(() => attention.plan(two)).toThrow(/21 tokens in one step .* capacity is 20.*maxTokensPerStep/);
    expect([...writer.words]).toEqual(before);
  });

  it('has the block table entries of a plan that was not recorded once more', () => {
    const { kv, attention, writer } = open();
    const sequence = kv.open();
    const updates = () => {
      kv.extend(sequence, 8);
      attention.plan([{ sequence, queryLen: 8 }]);
      attention.write();
      return writer.read('NUM_TABLE_UPDATES');
    };
    expect([updates(), updates()]).toEqual([1, 2]);
    attention.updateTables(noPass);
    expect(updates()).toBe(1);
  });

  it.each([4, -1, 0.5, Number.NaN])('refuses a query of %s tokens of a sequence of 3', (queryLen) => {
    const { kv, attention } = open();
    const sequence = kv.open();
    kv.extend(sequence, 3);
    attention.plan([{ sequence, queryLen: 3 }]);
    expect(() => attention.plan([{ sequence, queryLen }])).toThrow(InvalidArgumentError);
  });

  it('knows no tokens of a closed sequence', () => {
    const { kv, attention } = open();
    const sequence = kv.open();
    kv.extend(sequence, 3);
    kv.close(sequence);
    expect(() => attention.plan([{ sequence, queryLen: 1 }])).toThrow(InvalidArgumentError);
  });
});

describe('the blocks of new tokens', () => {
  it('are of the pool, and there is one for each slot', () => {
    const { kv, attention } = open();
    const sequence = kv.open();
    kv.extend(sequence, 20);
    const { blocks, length } = sequence;
    const plan = (changed: Partial<typeof sequence>, queryLen: number) => () =>
      attention.plan([{ sequence: { ...sequence, ...changed }, queryLen }]);
    const last = blocks.length - 1;
    for (const block of [kv.options.numBlocks, -1, 0, 1.5e9, Number.NaN])
      expect(plan({ blocks: blocks.with(last, block) }, 1), `block ${block}`).toThrow(InvalidArgumentError);
    expect(plan({ blocks: blocks.slice(0, last) }, 1)).toThrow(/block is undefined/);
    expect(plan({ length: length + kv.options.blockSize }, 1)).toThrow(InvalidArgumentError);
    expect(plan({ blocks: blocks.with(0, 0) }, length)).toThrow(/block is 0/);
    plan({ blocks: blocks.with(0, 0) }, 1)(); // given up before a window
  });
});

describe('write', () => {
  it('sends one range, which grows with new blocks and not with the context', () => {
    const { kv, attention, writer, writes } = open();
    const sequence = kv.open();
    kv.extend(sequence, 200);
    attention.plan([{ sequence, queryLen: 10 }]);
    attention.write();
    expect(writer.read('NUM_TABLE_UPDATES')).toBe(25);
    attention.updateTables(noPass);
    const plainStep = 20 + 2 + 6 + 6; // header, a token, its span, its item
    for (let length = 201; length <= 240; length++) {
      kv.extend(sequence, 1);
      attention.plan([{ sequence, queryLen: 1 }]);
      attention.write();
      attention.updateTables(noPass);
      const added = length % 8 === 1 ? 1 : 0;
      expect(writer.read('NUM_TABLE_UPDATES')).toBe(added);
      const sent = writes.at(-1)!;
      expect(sent.length).toBe(plainStep + 2 * added);
      expect([...sent]).toEqual([...writer.words]);
      if (added === 0) continue;
      expect([...sent.slice(-2)]).toEqual([sequence.tableRow * 60 + sequence.blocks.length - 1, sequence.blocks.at(-1)]);
    }
    expect(writes.length).toBe(41);
  });

  it("forgets no new block when the caller's sections do not fit", () => {
    const { kv, attention, writer, writes } = open();
    const sequence = kv.open();
    kv.extend(sequence, 9);
    attention.plan([{ sequence, queryLen: 9 }]);
    expect(() => writer.section('TOKEN_IDS', 1_000_000)).toThrow(CapacityExceededError);
    attention.plan([{ sequence, queryLen: 9 }]);
    attention.write();
    expect(writer.read('NUM_TABLE_UPDATES')).toBe(2);
    expect(writes.length).toBe(1);
  });

  it('holds the largest step, and the words that the caller asked for', () => {
    const { kv, attention, writer, sizes } = open({ extraPlanWords: 50, minSegmentKeys: 64, targetWorkgroups: 1000 });
    const sequences = [kv.open(), kv.open(), kv.open()];
    for (const sequence of sequences) kv.extend(sequence, 60 * 8);
    attention.plan(sequences.map((sequence) => ({ sequence, queryLen: 1 })));
    writer.section('TOKEN_IDS', 50);
    attention.write();
    expect(writer.words.length * 4).toBeLessThanOrEqual(sizes.get('plan')!);
  });
});
