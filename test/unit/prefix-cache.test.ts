import { describe, expect, it } from 'vitest';
import { BlockTables } from '../../src/attention/block-tables.ts';
import { chainHash, PrefixCache } from '../../src/engine/prefix-cache.ts';
import { createRequest, type Request } from '../../src/engine/request.ts';
import { Scheduler } from '../../src/engine/scheduler.ts';
import { random } from '../harness/random.ts';

const range = (length: number, first = 0) => Array.from({ length }, (_, i) => first + i);

function open(numBlocks: number, blockSize: number, hash?: typeof chainHash) {
  const tables = new BlockTables({ blockSize, numBlocks, maxSequences: 8, maxBlocksPerSequence: 32 });
  const prefixes = new PrefixCache(tables.blocks, blockSize, 7, hash);
  return { tables, prefixes, scheduler: new Scheduler(tables, prefixes, { maxTokensPerStep: 256, maxSequences: 8 }) };
}

/** Runs a prompt through the scheduler's first step. */
function prefill(scheduler: Scheduler, promptIds: readonly number[], cacheSalt?: string): Request {
  const request = createRequest({ promptIds, maxTokens: 8, cacheSalt });
  scheduler.add(request);
  scheduler.schedule();
  return request;
}

const blocksOf = (request: Request) => [...request.sequence!.blocks];

describe('the golden trace', () => {
  it('of three requests with 48 tokens in common', () => {
    const { tables, scheduler } = open(11, 16);
    const common = range(48);
    const first = prefill(scheduler, [...common, ...range(7, 100)]);
    expect(blocksOf(first)).toEqual([1, 2, 3, 4]);
    const second = prefill(scheduler, [...common, ...range(5, 200)]);
    expect(blocksOf(second)).toEqual([1, 2, 3, 5]);
    expect(second.cachedTokens).toBe(48);
    scheduler.finish(first);
    scheduler.finish(second);
    expect(tables.blocks.freeBlocks()).toEqual([5, 4, 6, 7, 8, 9, 10, 3, 2, 1]);
    const third = prefill(scheduler, [...common, ...range(9, 300)]);
    expect(blocksOf(third)).toEqual([1, 2, 3, 5]);
    expect(tables.blocks.freeBlocks()).toEqual([4, 6, 7, 8, 9, 10]);
    expect(scheduler.stats()).toMatchObject({ prefixQueries: 55 + 53 + 57, prefixHits: 48 + 48 });
  });
});

describe('a hit', () => {
  it('leaves the last token to run, also where all of the prompt is cached', () => {
    const { tables, scheduler } = open(20, 8);
    const prompt = range(24);
    const first = prefill(scheduler, prompt);
    const second = prefill(scheduler, prompt);
    expect(second.cachedTokens).toBe(16);
    expect(blocksOf(second).slice(0, 2)).toEqual(blocksOf(first).slice(0, 2));
    // The block that was computed twice is there twice, and either may go.
    expect(blocksOf(second)[2]).not.toBe(blocksOf(first)[2]);
    scheduler.finish(first);
    expect(prefill(scheduler, [...prompt, 1]).cachedTokens).toBe(24);
    scheduler.finish(second);
    expect(tables.blocks.freeBlocks().length).toBe(19 - 4);
  });

  it('needs all tokens before it to be the same, not only those of the block', () => {
    const { scheduler } = open(20, 8);
    prefill(scheduler, [...range(8), ...range(8, 50), 1]);
    expect(prefill(scheduler, [...range(8, 20), ...range(8, 50), 1]).cachedTokens).toBe(0);
    expect(prefill(scheduler, [...range(8), ...range(8, 50), 2]).cachedTokens).toBe(16);
    expect(prefill(scheduler, [...range(8), ...range(7, 50), 99, 2]).cachedTokens).toBe(8);
  });

  it('is for requests of the same salt', () => {
    const { scheduler } = open(40, 8);
    const prompt = range(20);
    prefill(scheduler, prompt, 'one');
    expect(prefill(scheduler, prompt, 'other').cachedTokens).toBe(0);
    expect(prefill(scheduler, prompt).cachedTokens).toBe(0);
    expect(prefill(scheduler, prompt, 'one').cachedTokens).toBe(16);
  });

  it('includes what was answered', () => {
    const { scheduler } = open(20, 8);
    const request = createRequest({ promptIds: range(10), maxTokens: 20 });
    scheduler.add(request);
    for (let token = 10; token < 20; token++) scheduler.accept(scheduler.schedule().entries[0]!, [token]);
    scheduler.finish(request);
    expect(prefill(scheduler, [...range(20), 1, 2]).cachedTokens).toBe(16);
  });

  it('is not of tokens whose turn was never submitted, or that the host does not know yet', () => {
    const { scheduler, prefixes } = open(20, 8);
    const request = prefill(scheduler, range(7));
    const steps = [scheduler.schedule(), scheduler.schedule()]; // two tokens ahead: the block is full, its last token unknown
    expect(request.sequence!.length).toBe(9);
    expect(prefixes.size).toBe(0);
    scheduler.accept({ ...steps[0]!.entries[0]!, request }, [7]);
    expect(prefixes.size).toBe(1);
  });
});

describe('eviction', () => {
  it('takes the end of a chain before its start, and a block that is given out is no longer found', () => {
    const { tables, prefixes, scheduler } = open(9, 8);
    const prompt = [...range(32), 1];
    scheduler.finish(prefill(scheduler, prompt));
    expect([tables.blocks.free, prefixes.size]).toEqual([8, 4]);
    // Four blocks hold nothing of worth and go first; the fifth is the end of the chain.
    scheduler.finish(prefill(scheduler, range(35, 500)));
    expect(prefixes.size).toBe(7);
    expect(prefill(scheduler, prompt).cachedTokens).toBe(24);
  });

  it('ends what can be found behind a block that is gone, until it is there again', () => {
    const { tables, prefixes } = open(12, 8);
    const tokens = range(24);
    const register = (length: number) => {
      const sequence = tables.open();
      tables.extend(sequence, length);
      const chain = prefixes.chain();
      prefixes.register(chain, tokens, sequence.blocks, length);
      return sequence;
    };
    const first = register(8);
    const second = register(24); // the first block twice
    expect(first.blocks[0]).not.toBe(second.blocks[0]);
    expect(prefixes.find(prefixes.chain(), [...tokens, 0]).blocks).toEqual([first.blocks[0], second.blocks[1], second.blocks[2]]);
    tables.close(first);
    tables.blocks.allocate(tables.blocks.free); // takes the first copy, too
    expect(prefixes.find(prefixes.chain(), [...tokens, 0]).blocks).toEqual([...second.blocks]);
  });

  it('of blocks before the window leaves the others findable', () => {
    const { tables, prefixes } = open(12, 8);
    const tokens = range(40);
    const sequence = tables.open();
    tables.extend(sequence, 40);
    prefixes.register(prefixes.chain(), tokens, sequence.blocks, 40);
    const [, , third, fourth, fifth] = [...sequence.blocks];
    const find = (window?: number, keepFirst?: number) => prefixes.find(prefixes.chain(), [...tokens, 0], { window, keepFirst }).blocks;
    expect(find()).toEqual([...sequence.blocks]);
    // The token at 40 sees the keys from 24 on; with a window of 18, from 23 on.
    expect(find(17)).toEqual([0, 0, 0, fourth, fifth]);
    expect(find(18)).toEqual([0, 0, third, fourth, fifth]);
    expect(find(17, 9)).toEqual([...sequence.blocks.slice(0, 2), 0, fourth, fifth]);
    tables.release(sequence, 24);
    tables.blocks.allocate(tables.blocks.free);
    expect(find(17)).toEqual([0, 0, 0, fourth, fifth]);
    expect(find(1)).toEqual([0, 0, 0, 0, 0]);
    for (const [window, keepFirst] of [[], [18], [17, 1], [1, 1]]) expect(find(window, keepFirst)).toEqual([]);
    // What is found can be opened: null blocks are nobody's.
    const again = tables.open(find(17));
    expect([again.length, tables.blocks.owners(fourth!), tables.blocks.owners(0)]).toEqual([40, 2, 1]);
    tables.close(again);
    tables.close(sequence);
    expect(prefixes.size).toBe(2);
  });

  it('leaves nothing behind', () => {
    const { tables, prefixes, scheduler } = open(12, 8);
    for (let i = 0; i < 5; i++) scheduler.finish(prefill(scheduler, range(40, 100 * i), `salt ${i}`));
    expect(prefixes.size).toBe(11);
    tables.blocks.allocate(11);
    expect(prefixes.size).toBe(0);
    expect(prefixes.numNodes).toBe(0);
  });

  it('of everything at once forgets all, also for requests that run', () => {
    const { prefixes, scheduler } = open(20, 8);
    const running = prefill(scheduler, range(20));
    prefixes.clear();
    expect([prefixes.size, prefixes.numNodes]).toEqual([0, 0]);
    for (let i = 0; i < 7; i++) scheduler.accept(scheduler.schedule().entries[0]!, [i]);
    scheduler.finish(running);
    expect(prefill(scheduler, range(20)).cachedTokens).toBe(0);
    expect(prefill(scheduler, range(20)).cachedTokens).toBe(16);
  });
});

describe('hashes', () => {
  it('that are all the same serve no wrong block: tokens and what stands before them are compared', () => {
    const { scheduler, prefixes } = open(60, 8, () => 42);
    const numbers = random(5);
    const prompts = range(6).map(() => range(17).map(() => numbers.integer(3)));
    const requests = prompts.map((prompt) => prefill(scheduler, prompt));
    requests.forEach((request, i) => {
      const hit = prefixes.find(prefixes.chain(), prompts[i]!);
      expect(hit.blocks.length).toBe(2);
      const owner = requests.find((other) => other.sequence!.blocks.includes(hit.blocks[1]!))!;
      expect(owner.tokens.slice(0, 16)).toEqual(request.tokens.slice(0, 16));
    });
    // The second block of one behind the first of another was never computed.
    expect(prefixes.find(prefixes.chain(), [...prompts[0]!.slice(0, 8), ...prompts[1]!.slice(8, 16), 0]).blocks.length).toBe(1);
  });

  it('depend on seed, order and every token, and use 53 bits', () => {
    const tokens = range(16);
    const of = (seed: number, ids: readonly number[]) => chainHash(seed, ids, 0, ids.length);
    const all = [of(1, tokens), of(2, tokens), of(1, tokens.toReversed()), of(2 ** 40, tokens)];
    for (let i = 0; i < 16; i++) all.push(of(1, tokens.with(i, 99)));
    expect(new Set(all).size).toBe(all.length);
    for (const hash of all) expect(Number.isSafeInteger(hash) && hash >= 0).toBe(true);
    const many = new Set(range(100_000).map((i) => of(1, [i, i >> 3, 5])));
    expect(many.size).toBe(100_000);
  });
});
