/**
 * Which tokens each step computes (continuous batching; Yu et al. 2022, "Orca"; Kwon et al. 2023, "PagedAttention"; the single token budget is that of
 * vLLM's scheduler). Pure: needs no GPU.
 */
import type { BlockTables, Sequence } from '../attention/block-tables.ts';
import { nullBlock } from '../attention/blocks.ts';
import { BlocksExhaustedError, CapacityExceededError, type PagewiseError } from '../errors.ts';
import type { PrefixCache, PrefixHit } from './prefix-cache.ts';
import { outputLength, type Request } from './request.ts';
import type { ScheduledStep, ScheduledTokens, SchedulerOptions, SchedulerStats } from './schedule.ts';
import { blocksAtOnce, firstBlockSeen, tokensAtOnce } from './window.ts';

/**
 * Prefill and decode are not two modes: each request catches up to its tokens within one token budget. A step can be scheduled before the tokens sampled by the steps before it
 * are known, because positions, slots and blocks do not depend on them. The order of steps on the GPU's queue makes that safe: blocks of a request that ended or
 * was preempted can be given out while steps that write to them are in flight, since whoever gets them writes later.
 */
export class Scheduler {
  readonly #tables: BlockTables;
  readonly #prefixes: PrefixCache | undefined;
  readonly #options: SchedulerOptions;
  /** By priority, then in the order in which they were admitted. */
  readonly #running: Request[] = [];
  readonly #waiting: Request[] = [];
  #step = 0;
  /** Rows of logits that drafts can still have in this step. */
  #spareRows = 0;
  /** Requests that the last step left waiting. */
  #passedOver = 0;
  #preemptions = 0;
  #promptTokens = 0;
  #prefixQueries = 0;
  #prefixHits = 0;

  constructor(tables: BlockTables, prefixes: PrefixCache | undefined, options: SchedulerOptions) {
    this.#tables = tables;
    this.#prefixes = prefixes;
    this.#options = options;
  }

  get running(): readonly Request[] {
    return this.#running;
  }

  get waiting(): readonly Request[] {
    return this.#waiting;
  }

  /** Waiting requests for which the last step had no room. */
  get passedOver(): number {
    return Math.min(this.#passedOver, this.#waiting.length);
  }

  stats(): SchedulerStats {
    return {
      running: this.#running.length,
      waiting: this.#waiting.length,
      preemptions: this.#preemptions,
      promptTokens: this.#promptTokens,
      prefixQueries: this.#prefixQueries,
      prefixHits: this.#prefixHits,
    };
  }

  /** Puts a request behind those of its priority. */
  add(request: Request): void {
    insert(this.#waiting, request, 'behind');
  }

  /** Reserves the slots of the next step. */
  schedule(): ScheduledStep {
    this.#step++;
    const { maxSequences, maxLogitRows = Number.POSITIVE_INFINITY } = this.#options;
    this.#spareRows = Math.max(0, maxLogitRows - maxSequences);
    const entries: ScheduledTokens[] = [];
    const failed: { request: Request; error: PagewiseError }[] = [];
    const preempted = this.#preemptions;
    let budget = this.#options.maxTokensPerStep;
    for (const request of [...this.#running]) {
      const count = request.status === 'running' ? this.#tokensWanted(request, budget) : 0;
      if (count === 0) continue;
      this.#giveUpBlocks(request);
      const fitting = this.#makeFit(request, count);
      if (fitting instanceof BlocksExhaustedError) failed.push({ request, error: fitting });
      if (typeof fitting !== 'number') break; // it was the last one
      entries.push(this.#take(request, fitting));
      budget -= fitting;
    }
    if (this.#preemptions === preempted) this.#admit(budget, entries, failed);
    this.#passedOver = this.#waiting.length;
    return { entries, numTokens: entries.reduce((sum, { count }) => sum + count, 0), failed };
  }

  /**
   * Takes in what a step sampled for a request: a token, or with a draft those that it turned out to be. Call it for each entry that samples, step by step in their
   * order, also for requests that ended meanwhile.
   */
  accept({ request, samples }: ScheduledTokens, tokens: readonly number[]): void {
    request.inFlight--;
    if (request.status === 'ended') return;
    request.tokens.push(...tokens);
    const { sequence } = request;
    if (!sequence) return;
    if (samples > 1) this.#tables.truncate(sequence, Math.min(sequence.length, request.tokens.length - 1));
    this.#register(request);
  }

  /** Ends a request, wherever it is: takes back slots beyond its tokens, and frees its blocks. */
  finish(request: Request): void {
    if (request.status === 'ended') return;
    const { sequence, tokens } = request;
    if (sequence) {
      this.#tables.truncate(sequence, Math.min(sequence.length, tokens.length));
      this.#register(request);
      this.#tables.close(sequence);
    }
    request.sequence = undefined;
    for (const list of [this.#running, this.#waiting]) if (list.includes(request)) list.splice(list.indexOf(request), 1);
    request.status = 'ended';
  }

  /**
   * Preempts until so many blocks are free: for work beside the requests.
   * @throws {BlocksExhaustedError} when there are not so many.
   */
  makeRoom(blocks: number): void {
    const { blocks: pool } = this.#tables;
    while (pool.free < blocks && this.#running.length > 0) this.#preempt();
    if (pool.free < blocks) throw new BlocksExhaustedError(blocks, pool.free, pool.size - 1);
  }

  /** How many tokens a request could compute now. */
  #tokensWanted(request: Request, budget: number): number {
    const { tokens, inFlight, draft, maxInFlight, maxTokens, sequence } = request;
    const left = maxTokens - outputLength(request) - inFlight;
    if (request.paused || inFlight >= maxInFlight || left <= 0) return 0;
    const missing = tokens.length + inFlight - (sequence?.length ?? 0);
    const { longPrefillThreshold = budget } = this.#options;
    const most = Math.min(budget, longPrefillThreshold, this.#mostAtOnce(request));
    if (missing > 1 || draft.length === 0) return Math.min(missing, most);
    return Math.min(missing + Math.min(draft.length, this.#spareRows), left, most); // a draft may well be cut short
  }

  /** Most tokens of a request that fit into the pool at once: a window lets one run that is longer than the pool. No limit where all fit, or none. */
  #mostAtOnce({ tokens }: Request): number {
    const { blocks, options } = this.#tables;
    const most = tokensAtOnce(this.#options, blocks.size - 1, options.blockSize);
    return most < 1 || Math.ceil(tokens.length / options.blockSize) < blocks.size ? Number.POSITIVE_INFINITY : most;
  }

  /** Finds room for `count` more tokens, or for the first of them where the others are a draft. @returns how many fit, else why the request no longer runs. */
  #makeFit(request: Request, count: number): number | 'preempted' | 'waits' | BlocksExhaustedError {
    const { blocks } = this.#tables;
    const sequence = request.sequence as Sequence;
    for (;;) {
      if (this.#tables.blocksNeeded(sequence, count) <= blocks.free) return count;
      const needed = this.#tables.blocksNeeded(sequence, 1);
      if (request.draft.length > 0 && sequence.length + 1 === request.tokens.length && needed <= blocks.free) return 1;
      if (this.#running.length === 1) {
        if (request.inFlight > 0) return 'waits'; // one of these may be its end
        const error = new BlocksExhaustedError(this.#tables.blocksNeeded(sequence, count), blocks.free, blocks.size - 1);
        this.finish(request);
        return error;
      }
      if (this.#preempt() === request) return 'preempted';
    }
  }

  /**
   * Takes the blocks of the last running request away, or of the last one whose reader has fallen behind; it computes its tokens anew when there is room, from the
   * prefix cache where it can.
   */
  #preempt(): Request {
    const request = this.#running.findLast(({ paused }) => paused) ?? this.#running[this.#running.length - 1];
    this.#tables.close(request.sequence as Sequence);
    request.sequence = undefined;
    request.status = 'waiting';
    request.draft = [];
    this.#running.splice(this.#running.indexOf(request), 1);
    insert(this.#waiting, request, 'in front');
    this.#preemptions++;
    return request;
  }

  /** Admits waiting requests, first come first served, until one does not fit. */
  #admit(budget: number, entries: ScheduledTokens[], failed: { request: Request; error: PagewiseError }[]): void {
    const { blocks, options } = this.#tables;
    let left = budget;
    for (const request of [...this.#waiting]) {
      if (left === 0 || this.#running.length >= this.#options.maxSequences) return;
      if (request.paused) continue;
      if (request.inFlight > 0) return; // preempted: its tokens are on their way
      const parent = this.#parentOf(request);
      if (parent === 'not yet') continue;
      const needed = Math.min(Math.ceil(request.tokens.length / options.blockSize), blocksAtOnce(this.#options, 1, options.blockSize));
      let error: PagewiseError | undefined;
      if (needed > blocks.size - 1) error = new BlocksExhaustedError(needed, blocks.free, blocks.size - 1);
      const count = error ? undefined : this.#open(request, parent, left);
      if (count === undefined && !error) {
        if (this.#running.length > 0) return;
        // Nobody of ours holds what it needs, so that waiting would be for ever.
        const { maxSequences } = options;
        error =
          this.#tables.freeRows === 0
            ? new CapacityExceededError('sequences', maxSequences + 1, maxSequences, 'maxSequences')
            : new BlocksExhaustedError(needed, blocks.free, blocks.size - 1);
      }
      if (error) {
        this.finish(request);
        failed.push({ request, error });
      } else if (count !== undefined) {
        entries.push(this.#take(request, count));
        left -= count;
      }
    }
  }

  /** The running request to fork, `not yet` while its prompt is on its way, or undefined: compute the prompt. */
  #parentOf({ forkOf, promptLength, tokens }: Request): Request | 'not yet' | undefined {
    if (!forkOf || forkOf.status === 'ended' || tokens.length > promptLength) return undefined;
    const { sequence, promptStep = this.#step } = forkOf;
    if (!sequence || promptStep >= this.#step) return 'not yet';
    const { blockSize } = this.#tables.options;
    // A window may have moved beyond what the fork's first token sees.
    const seen = sequence.blocks.slice(firstBlockSeen(this.#options, promptLength - 1, blockSize), Math.ceil(promptLength / blockSize));
    return seen.includes(nullBlock) ? undefined : forkOf;
  }

  /** Gives a waiting request a sequence, if there is room for its next tokens. @returns how many these are. */
  #open(request: Request, parent: Request | undefined, budget: number): number | undefined {
    const { blocks, freeRows, options } = this.#tables;
    if (freeRows === 0) return undefined;
    if (parent?.sequence) {
      // The last token of the prompt runs once more, to be sampled from with this request's own numbers.
      if (blocks.free < 1) return undefined;
      request.chain = this.#prefixes?.chain(request.cacheSalt);
      request.sequence = this.#tables.fork(parent.sequence);
      this.#tables.truncate(request.sequence, request.promptLength - 1);
    } else {
      request.chain ??= this.#prefixes?.chain(request.cacheSalt);
      const hit: PrefixHit | undefined = request.chain && this.#prefixes?.find(request.chain, request.tokens, this.#options);
      const found = hit?.blocks ?? [];
      const missing = request.tokens.length - found.length * options.blockSize;
      const count = Math.min(missing, budget, this.#options.longPrefillThreshold ?? missing, this.#mostAtOnce(request));
      const taken = found.reduce((sum, block) => sum + (blocks.owners(block) === 0 ? 1 : 0), 0);
      if (Math.ceil(count / options.blockSize) + taken > blocks.free) return undefined;
      request.sequence = this.#tables.open(found);
      if (hit && request.chain) this.#prefixes?.follow(request.chain, hit);
    }
    this.#count(request, parent !== undefined);
    this.#waiting.splice(this.#waiting.indexOf(request), 1);
    request.status = 'running';
    request.isFresh = true;
    request.promptStep = undefined;
    insert(this.#running, request, 'behind');
    return this.#tokensWanted(request, budget);
  }

  /** Prompts, and what was found of them, count once, however often a request is preempted; what is forked is nobody's find. */
  #count(request: Request, isFork: boolean): void {
    if (request.cachedTokens !== undefined) return;
    request.cachedTokens = isFork ? 0 : (request.sequence?.length ?? 0);
    if (!request.forkOf) this.#promptTokens += request.promptLength;
    if (isFork || !this.#prefixes) return;
    this.#prefixQueries += request.promptLength;
    this.#prefixHits += request.cachedTokens;
  }

  /** Reserves the slots of `count` tokens. */
  #take(request: Request, count: number): ScheduledTokens {
    const { tokens, draft, inFlight } = request;
    const sequence = request.sequence as Sequence;
    const begin = sequence.length;
    this.#tables.extend(sequence, count);
    const end = begin + count;
    const drafted = Math.max(0, end - tokens.length - inFlight);
    const known = end <= tokens.length ? tokens.slice(begin, end) : [...tokens.slice(begin), ...draft.slice(0, drafted)];
    const samples = end >= tokens.length + inFlight ? 1 + drafted : 0;
    const first = samples > 0 && request.isFresh;
    if (samples > 0) {
      request.inFlight++;
      request.isFresh = false;
      request.draft = [];
      this.#spareRows -= drafted;
    }
    if (end >= request.promptLength) request.promptStep ??= this.#step;
    this.#register(request);
    return { request, sequence, count, tokens: known.length === count ? known : undefined, samples, first };
  }

  /** Makes the full blocks findable whose tokens are known. */
  #register({ chain, tokens, sequence }: Request): void {
    if (chain && sequence) this.#prefixes?.register(chain, tokens, sequence.blocks, Math.min(tokens.length, sequence.length));
  }

  /** Blocks that no token from here on sees. */
  #giveUpBlocks({ sequence }: Request): void {
    const { window, keepFirst } = this.#options;
    if (window !== undefined && sequence) this.#tables.release(sequence, sequence.length - window + 1, keepFirst);
  }
}

/** Keeps a list sorted by priority. */
function insert(list: Request[], request: Request, place: 'in front' | 'behind'): void {
  const at = list.findIndex(({ priority }) => (place === 'behind' ? priority > request.priority : priority >= request.priority));
  list.splice(at < 0 ? list.length : at, 0, request);
}
