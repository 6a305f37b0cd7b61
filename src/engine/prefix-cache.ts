/** Finds blocks whose keys and values a new request needs again. Pure: knows tokens and numbers of blocks, not their memory. */
import { type BlockPool, nullBlock } from '../attention/blocks.ts';
import { blocksKept, firstBlockSeen, type KeyWindow } from './window.ts';

/** Mixes the tokens [begin, end) into the hash of what stands before them: 53 bits. */
export type ChainHash = (previous: number, tokens: readonly number[], begin: number, end: number) => number;

/** What stands before a block: the block before it, or, at the start, the salt. Two are the same exactly when they are equal. */
type Before = Node | string;

/** What full blocks hold: the tokens of one, behind all that stands before. */
interface Node {
  readonly hash: number;
  readonly before: Before;
  readonly tokens: readonly number[];
  /** Blocks with this content, the oldest first. */
  readonly blocks: number[];
  children: number;
  /** Out of the cache for good. */
  removed: boolean;
}

/** One request's way along the nodes: where the blocks that it has registered or found end. Made by `PrefixCache.chain`. */
export interface PrefixChain {
  readonly salt: string;
  /** Of the request's full blocks, as far as they are known. */
  readonly hashes: number[];
  tail: Before;
  /** Blocks from the start on that are registered or were found. */
  length: number;
}

/** The longest run of blocks from the start of a request that hold its tokens. */
export interface PrefixHit {
  /** The null block for each that lies before the window: nobody will look there. */
  readonly blocks: readonly number[];
  readonly tail: Before;
}

/**
 * Full blocks by the hash of their tokens and of all before them: `hash_i = H(hash_(i-1) or the seed, tokens of the block, salt)`.
 *
 * A hash alone decides nothing: under it are the tokens and the identity of what stands before them, and both are compared. So keys and values of
 * other tokens are never taken, whatever the hashes. Several blocks may hold the same (block tables are append-only); the oldest is found.
 * A block is forgotten when the pool gives it out anew.
 */
export class PrefixCache {
  readonly #pool: BlockPool;
  readonly #blockSize: number;
  readonly #seed: number;
  readonly #hash: ChainHash;
  readonly #nodes = new Map<number, Node[]>();
  readonly #nodeOfBlock: (Node | undefined)[];

  /** @param seed of the hashes: random unless a test gives one, so that nobody can prepare collisions. */
  constructor(
    pool: BlockPool,
    blockSize: number,
    seed: number = crypto.getRandomValues(new Uint32Array(1))[0],
    hash: ChainHash = chainHash,
  ) {
    this.#pool = pool;
    this.#blockSize = blockSize;
    this.#seed = seed;
    this.#hash = hash;
    this.#nodeOfBlock = new Array(pool.size).fill(undefined);
    pool.watchEvictions((block) => this.#forget(block));
  }

  /** Blocks that can be found now. */
  get size(): number {
    return this.#nodeOfBlock.reduce((count, node) => count + (node ? 1 : 0), 0);
  }

  /** Contents that are remembered: those of the blocks above, and those that lead to them. */
  get numNodes(): number {
    return [...this.#nodes.values()].reduce((count, nodes) => count + nodes.length, 0);
  }

  /** Starts a request's chain. Requests with different salts share nothing. */
  chain(salt = ''): PrefixChain {
    return { salt, hashes: [], tail: salt, length: 0 };
  }

  /** Starts it anew: for a request that lost its blocks. What was hashed stays hashed. */
  reset(chain: PrefixChain): void {
    chain.tail = chain.salt;
    chain.length = 0;
  }

  /**
   * The longest hit for a request of these tokens, at most all but the last one, which must run to give logits. Changes nothing: to use the hit, open
   * a sequence with its blocks and call `follow`.
   * @param keys what tokens see: blocks that the first token behind the hit does not look into need not be there any more.
   */
  find(chain: PrefixChain, tokens: readonly number[], keys: KeyWindow = {}): PrefixHit {
    const most = Math.floor((tokens.length - 1) / this.#blockSize);
    const kept = blocksKept(keys, this.#blockSize);
    const firstSeen = (length: number): number => firstBlockSeen(keys, length * this.#blockSize, this.#blockSize);
    const nodes: Node[] = [];
    let length = 0;
    let lastMissing = -1;
    while (nodes.length < most) {
      const index = nodes.length;
      const node = this.#lookUp(chain, nodes.at(-1) ?? chain.salt, tokens, index);
      if (!node) break;
      if (node.blocks.length === 0) {
        if (keys.window === undefined || index < kept) break;
        lastMissing = index;
      }
      nodes.push(node);
      if (lastMissing < firstSeen(nodes.length)) length = nodes.length;
    }
    const first = firstSeen(length);
    const blocks = nodes.slice(0, length).map((node, index) => (index >= kept && index < first ? nullBlock : node.blocks[0]));
    return { blocks, tail: length > 0 ? nodes[length - 1] : chain.salt };
  }

  follow(chain: PrefixChain, hit: PrefixHit): void {
    chain.tail = hit.tail;
    chain.length = hit.blocks.length;
  }

  /**
   * Registers the full blocks of a sequence whose tokens are known and whose keys and values were submitted: those within the first `known` tokens.
   * @param blocks the sequence's block table.
   */
  register(chain: PrefixChain, tokens: readonly number[], blocks: readonly number[], known: number): void {
    const end = Math.floor(known / this.#blockSize);
    while (chain.length < end) {
      const index = chain.length;
      // A block that a window gave up already, or whose predecessor is gone, ends what can be found.
      if (blocks[index] === nullBlock || isRemoved(chain.tail)) return;
      const node = this.#lookUp(chain, chain.tail, tokens, index) ?? this.#add(chain, tokens, index);
      if (this.#nodeOfBlock[blocks[index]] === undefined) {
        node.blocks.push(blocks[index]);
        this.#nodeOfBlock[blocks[index]] = node;
        this.#pool.setCached(blocks[index], true);
      }
      chain.tail = node;
      chain.length++;
    }
  }

  /** Forgets everything: for when what was submitted did not reach the GPU. */
  clear(): void {
    for (const [block, node] of this.#nodeOfBlock.entries()) {
      if (!node) continue;
      this.#pool.setCached(block, false);
      this.#nodeOfBlock[block] = undefined;
    }
    for (const node of [...this.#nodes.values()].flat()) node.removed = true;
    this.#nodes.clear();
  }

  #start(salt: string): number {
    const codes = Array.from(salt, (character) => character.codePointAt(0) as number);
    return this.#hash(this.#seed, codes, 0, codes.length);
  }

  #hashOf(chain: PrefixChain, tokens: readonly number[], index: number): number {
    for (let i = chain.hashes.length; i <= index; i++) {
      const previous = i === 0 ? this.#start(chain.salt) : chain.hashes[i - 1];
      chain.hashes.push(this.#hash(previous, tokens, i * this.#blockSize, (i + 1) * this.#blockSize));
    }
    return chain.hashes[index];
  }

  /** The node of the request's block `index`, behind what stands before it. */
  #lookUp(chain: PrefixChain, before: Before, tokens: readonly number[], index: number): Node | undefined {
    const begin = index * this.#blockSize;
    return this.#nodes
      .get(this.#hashOf(chain, tokens, index))
      ?.find((node) => node.before === before && node.tokens.every((token, i) => token === tokens[begin + i]));
  }

  #add(chain: PrefixChain, tokens: readonly number[], index: number): Node {
    const hash = this.#hashOf(chain, tokens, index);
    const begin = index * this.#blockSize;
    const before = chain.tail;
    const own = tokens.slice(begin, begin + this.#blockSize);
    const node: Node = { hash, before, tokens: own, blocks: [], children: 0, removed: false };
    if (typeof before === 'object') before.children++;
    const same = this.#nodes.get(hash);
    if (same) same.push(node);
    else this.#nodes.set(hash, [node]);
    return node;
  }

  #forget(block: number): void {
    const node = this.#nodeOfBlock[block];
    if (!node) return;
    this.#nodeOfBlock[block] = undefined;
    node.blocks.splice(node.blocks.indexOf(block), 1);
    this.#prune(node);
  }

  /** Takes a node out that has no block and nothing behind it, and those above it for which that becomes true. */
  #prune(from: Node): void {
    let node: Before = from;
    while (typeof node === 'object' && node.blocks.length === 0 && node.children === 0 && !node.removed) {
      const { hash, before }: Node = node;
      node.removed = true;
      const same = this.#nodes.get(hash) as Node[];
      if (same.length === 1) this.#nodes.delete(hash);
      else same.splice(same.indexOf(node), 1);
      if (typeof before === 'object') before.children--;
      node = before;
    }
  }
}

function isRemoved(before: Before): boolean {
  return typeof before === 'object' && before.removed;
}

/** Two multiplicative mixes of 32 bits side by side, and 53 bits of both (after cyrb53). */
export function chainHash(previous: number, tokens: readonly number[], begin: number, end: number): number {
  let low = 0xdeadbeef ^ previous;
  let high = 0x41c6ce57 ^ Math.floor(previous / 2 ** 32);
  for (let i = begin; i < end; i++) {
    low = Math.imul(low ^ tokens[i], 0x9e3779b1);
    high = Math.imul(high ^ tokens[i], 0x5f356495);
    low ^= low >>> 15;
    high ^= high >>> 13;
  }
  low = Math.imul(low ^ (low >>> 16), 0x85ebca6b) ^ Math.imul(high ^ (high >>> 13), 0xc2b2ae35);
  high = Math.imul(high ^ (high >>> 16), 0x85ebca6b) ^ Math.imul(low ^ (low >>> 13), 0xc2b2ae35);
  return (high & 0x1fffff) * 2 ** 32 + (low >>> 0);
}
