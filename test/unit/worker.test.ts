import { afterEach, describe, expect, test, vi } from 'vitest';
import type { EngineOptions } from '../../src/engine/engine-options.ts';
import type { GenerateOptions, Generation, GenerationChunk, GenerationResult } from '../../src/engine/types.ts';
import {
  ContextLengthError,
  DeviceLostError,
  InvalidArgumentError,
  LimitExceededError,
  ModelFileError,
  PagewiseError,
  UnsupportedModelError,
  WorkerClosedError,
} from '../../src/errors.ts';
import type { Gpu } from '../../src/gpu.ts';
import { describeError, outcomeOf, reviveError, unwrap } from '../../src/worker/errors.ts';
import { createWorkerEngine, type ServedEngine, type ServeOptions, serveEngine, type WorkerEngineOptions } from '../../src/worker/index.ts';

/** A worker without a thread: its scope hears what is posted to it. */
function fakeWorker(options: ServeOptions) {
  const worker = new EventTarget();
  const scope = new EventTarget();
  serveEngine(options, scope as never);
  return Object.assign(worker, {
    postMessage(data: unknown, ports: Transferable[]) {
      queueMicrotask(() => scope.dispatchEvent(Object.assign(new Event('message'), { data, ports })));
    },
  });
}

/** A generation that writes letters for as long as it is let, one at a time. */
class FakeGeneration implements Generation {
  readonly promptIds = [7, 8];
  readonly result: Promise<GenerationResult>;
  written = 0;
  read = 0;
  readonly #options: GenerateOptions;
  #settle: (result: GenerationResult) => void = () => {};
  #fail: (error: unknown) => void = () => {};

  constructor(
    options: GenerateOptions,
    readonly error: Error | undefined,
  ) {
    this.#options = options;
    this.result = new Promise((resolve, reject) => {
      this.#settle = resolve;
      this.#fail = reject;
    });
    this.result.catch(() => {});
    void this.#run();
  }

  stats() {
    const rates = { timeToFirstToken: 1, tokensPerSecond: 2, launchesPerToken: 3, pipelinesCompiled: 4, hostTimePerStep: 5, runAhead: 6 };
    return { promptTokens: 2, outputTokens: this.written, ...rates };
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<GenerationChunk, void> {
    while (this.read < this.written || !this.#done) {
      if (this.read < this.written) yield { index: 0, text: letter(this.read), ids: [this.read++] };
      else await new Promise((resolve) => setTimeout(resolve));
    }
    await this.result;
  }

  #done = false;
  #stopped = false;

  abort(): void {
    this.#stopped = true;
  }

  /** As an engine that is read: it does not run far ahead of whoever reads. */
  async #run(): Promise<void> {
    const { maxTokens = 20, signal } = this.#options;
    while (this.written < maxTokens && !signal?.aborted && !this.#stopped) {
      await new Promise((resolve) => setTimeout(resolve));
      if (this.read === 0 || this.written - this.read < 8) this.written++;
      if (this.error && this.written === 3) {
        this.#done = true;
        return this.#fail(this.error);
      }
    }
    this.#done = true;
    const ids = Array.from({ length: this.written }, (_, i) => i);
    const finishReason = signal?.aborted || this.#stopped ? 'abort' : 'length';
    const choice = { index: 0, text: ids.map(letter).join(''), ids, finishReason } as const;
    this.#settle({ ...choice, promptIds: this.promptIds, stats: this.stats(), choices: [choice], cachedTokens: 0 });
  }
}

const letter = (i: number): string => String.fromCharCode(97 + (i % 26));

/** An engine of no device; `calls` says what was asked of it. */
function fakeServer(parts: { readonly fail?: Error; readonly failing?: Error; readonly allowedTokens?: ServeOptions['constrain'] } = {}) {
  const calls: { readonly name: string; readonly value?: unknown }[] = [];
  const generations: FakeGeneration[] = [];
  let lose: (error: DeviceLostError) => void = () => {};
  const gpu = {
    adapter: { vendor: 'v', architecture: 'a', device: 'd', description: '', software: true },
    lost: new Promise<DeviceLostError>((resolve) => {
      lose = resolve;
    }),
    destroy: () => {
      calls.push({ name: 'gpu.destroy' });
      lose(new DeviceLostError('destroyed'));
    },
  };
  const engine = {
    ...{ config: { vocabSize: 32 }, defaults: { temperature: 0.5, topK: 1, topP: 1, eosTokenIds: [0] } },
    ...{ contextLength: 64, maxTokensPerStep: 16, weightBytes: 5, runAhead: 3 },
    tokenizer: { encode: (text: string) => [...text].map((c) => c.charCodeAt(0)), decode: (ids: number[]) => String.fromCharCode(...ids) },
    kv: { blocks: { size: 9 }, options: { blockSize: 16 }, sequences: new Set([{ tableRow: 0, blocks: [1, 2], length: 20 }]) },
    generate(prompt: string | readonly number[], options: GenerateOptions) {
      calls.push({ name: 'generate', value: { prompt, ...options, signal: options.signal instanceof AbortSignal } });
      if (prompt === 'long') throw new ContextLengthError(65, 64);
      const generation = new FakeGeneration(options, parts.failing);
      generations.push(generation);
      return generation;
    },
    score: async (ids: readonly number[]) => ids.map((id) => id / 2),
    logits: async (ids: readonly number[]) => Float32Array.from(ids),
    stats: () => ({ running: 2 }),
    launchStats: () => ({ falseHits: 3 }),
    manifest: () => ({ kernels: 1 }),
    destroy: () => calls.push({ name: 'engine.destroy' }),
  };
  const options: ServeOptions = {
    openGpu: async (asked) => {
      calls.push({ name: 'openGpu', value: asked });
      return gpu as unknown as Gpu;
    },
    load: async (_, files, { signal, onProgress, onTuningProblem, onLaunchEvent, ...rest }: EngineOptions) => {
      calls.push({ name: 'load', value: { files: files.description, ...rest } });
      onProgress?.({ phase: 'files', loaded: 1, total: 2 });
      onTuningProblem?.('old');
      onLaunchEvent?.({ type: 'pass-through', reason: 'r' } as never);
      if (parts.fail) throw parts.fail;
      if (files.description.includes('slow')) {
        await new Promise((_, reject) => signal?.addEventListener('abort', () => reject(signal.reason)));
      }
      return engine as unknown as ServedEngine;
    },
    ...(parts.allowedTokens && { constrain: parts.allowedTokens }),
  };
  return { options, calls, generations, lose, worker: fakeWorker(options) };
}

const base = 'https://example.org/model/';
const opened: { destroy(): void }[] = [];
afterEach(() => {
  for (const engine of opened.splice(0)) engine.destroy();
});

async function open(server: ReturnType<typeof fakeServer>, options?: WorkerEngineOptions) {
  const engine = await createWorkerEngine(server.worker, base, options);
  opened.push(engine);
  return engine;
}

const until = (condition: () => boolean) => vi.waitFor(() => expect(condition()).toBe(true), { timeout: 5000, interval: 2 });

describe('an engine in a worker', () => {
  test('opens with the options given, and tells what the page wants to hear', async () => {
    const server = fakeServer();
    const heard: unknown[] = [];
    const engine = await open(server, {
      ...{ kvDtype: 'f16', blockSize: 32, gpu: { powerPreference: 'low-power' } },
      onProgress: (progress) => heard.push(progress),
      onTuningProblem: (problem) => heard.push(problem),
      onLaunchEvent: (event) => heard.push(event),
    });
    expect(server.calls.slice(0, 2)).toEqual([
      { name: 'openGpu', value: { powerPreference: 'low-power' } },
      { name: 'load', value: { files: base, kvDtype: 'f16', blockSize: 32 } },
    ]);
    await until(() => heard.length === 3);
    expect(heard).toEqual([{ phase: 'files', loaded: 1, total: 2 }, 'old', { type: 'pass-through', reason: 'r' }]);
    expect(engine).toMatchObject({ contextLength: 64, maxTokensPerStep: 16, weightBytes: 5, runAhead: 3, hasTokenizer: true });
    expect(engine.adapter.software).toBe(true);
    expect(engine.defaults.temperature).toBe(0.5);
    expect(await engine.score([2, 4])).toEqual([1, 2]);
    expect(await engine.logits([1, 2])).toEqual(Float32Array.of(1, 2));
    expect(await engine.encode('ab')).toEqual([97, 98]);
    expect(await engine.decode([97, 98])).toBe('ab');
    expect(await engine.stats()).toEqual({ running: 2 });
    expect(await engine.launchStats()).toEqual({ falseHits: 3 });
    expect(await engine.manifest()).toEqual({ kernels: 1 });
  });

  test('reads files by their names', async () => {
    const server = fakeServer();
    const files = { description: 'your folder', files: { 'config.json': new Blob(['{}']) } };
    opened.push(await createWorkerEngine(server.worker, files));
    expect(server.calls[1].value).toMatchObject({ files: 'your folder' });
    await expect(createWorkerEngine(server.worker, 'no base for this')).rejects.toThrow(InvalidArgumentError);
  });

  test('streams chunks in order, with figures and blocks, and gives the result', async () => {
    const server = fakeServer();
    const engine = await open(server);
    const generation = engine.generate('Once', { maxTokens: 20, temperature: 0, seed: 3 });
    expect([generation.promptIds, generation.stats().outputTokens]).toEqual([[], 0]);
    let text = '';
    for await (const chunk of generation) text += chunk.text;
    expect(text).toBe('abcdefghijklmnopqrst');
    expect(await generation.result).toMatchObject({ text, finishReason: 'length', promptIds: [7, 8] });
    expect(generation.promptIds).toEqual([7, 8]);
    expect(generation.stats()).toMatchObject({ outputTokens: 20, runAhead: 6 });
    expect(engine.blocks).toEqual({ size: 9, blockSize: 16, sequences: [{ blocks: [1, 2], length: 20 }] });
    expect(server.calls.at(-1)).toEqual({
      name: 'generate',
      value: { prompt: 'Once', maxTokens: 20, temperature: 0, seed: 3, signal: true },
    });
    // Once more from the beginning, as of an engine in the page.
    const again: string[] = [];
    for await (const chunk of generation) again.push(chunk.text);
    expect(again.join('')).toBe(text);
  });

  test('gives the result to whoever does not iterate, and the chunks afterwards', async () => {
    const engine = await open(fakeServer());
    const generation = engine.generate([1, 2], { maxTokens: 200 });
    expect((await generation.result).ids).toHaveLength(200);
    let count = 0;
    for await (const { ids } of generation) count += ids.length;
    expect(count).toBe(200);
  });

  test('runs several generations at once, each with its own chunks', async () => {
    const engine = await open(fakeServer());
    const lengths = [5, 40, 1, 17];
    const texts = await Promise.all(
      lengths.map(async (maxTokens) => {
        let text = '';
        for await (const chunk of engine.generate('x', { maxTokens })) text += chunk.text;
        return text.length;
      }),
    );
    expect(texts).toEqual(lengths);
  });

  test('does not run far ahead of a reader that is slow', async () => {
    const server = fakeServer();
    const engine = await open(server);
    const iterator = engine.generate('x', { maxTokens: 500 })[Symbol.asyncIterator]();
    await iterator.next();
    // Long enough for hundreds of tokens.
    await new Promise((resolve) => setTimeout(resolve, 400));
    const [generation] = server.generations;
    expect(generation.read).toBeLessThanOrEqual(64 + 8);
    expect(generation.written).toBeLessThanOrEqual(generation.read + 8);
    let count = 1;
    while (!(await iterator.next()).done) count++;
    expect(count).toBe(500);
  });

  test('ends a generation when its signal says so, or when nobody reads on', async () => {
    const server = fakeServer();
    const engine = await open(server);
    const stopping = new AbortController();
    const stopped = engine.generate('x', { maxTokens: 1e6, signal: stopping.signal });
    let count = 0;
    for await (const _ of stopped) if (++count === 5) stopping.abort();
    expect((await stopped.result).finishReason).toBe('abort');

    const left = engine.generate('x', { maxTokens: 1e6 });
    for await (const _ of left) break;
    expect((await left.result).finishReason).toBe('abort');

    const told = engine.generate('x', { maxTokens: 1e6 });
    told.abort();
    expect((await told.result).finishReason).toBe('abort');

    const before = engine.generate('x', { maxTokens: 1e6, signal: AbortSignal.abort() });
    expect((await before.result).finishReason).toBe('abort');
  });

  test('passes a constraint to the worker, and no function', async () => {
    const asked: unknown[] = [];
    const mask = Uint32Array.of(1);
    const server = fakeServer({
      allowedTokens: async (constraint, served) => {
        asked.push(constraint, served.contextLength);
        return () => mask;
      },
    });
    const engine = await open(server);
    await engine.generate('x', { maxTokens: 1, constraint: { regex: 'a' } }).result;
    expect(asked).toEqual([{ regex: 'a' }, 64]);
    expect(server.calls.at(-1)?.value).toMatchObject({ allowedTokens: expect.any(Function) });
    expect(server.calls.at(-1)?.value).not.toHaveProperty('constraint');
    const withFunction = { allowedTokens: () => mask } as object;
    expect(() => engine.generate('x', withFunction)).toThrow(/allowedTokens is "a function".*constrain.*serveEngine/);
    const plain = await open(fakeServer());
    await expect(plain.generate('x', { constraint: 1 }).result).rejects.toThrow(/serveEngine without the option "constrain"/);
  });
});

describe('what goes wrong in a worker', () => {
  test('is thrown with its class and its fields: when opening', async () => {
    const server = fakeServer({ fail: new UnsupportedModelError('GPT2LMHeadModel', ['LlamaForCausalLM']) });
    const error = await open(server).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(UnsupportedModelError);
    expect(error).toMatchObject({ name: 'UnsupportedModelError', what: 'GPT2LMHeadModel', supported: ['LlamaForCausalLM'] });
    expect(server.calls.map(({ name }) => name)).toContain('gpu.destroy');
  });

  test('when asked for too much', async () => {
    const engine = await open(fakeServer());
    const generation = engine.generate('long');
    await expect(generation.result).rejects.toThrow(ContextLengthError);
    await expect(generation.result).rejects.toMatchObject({ tokens: 65, contextLength: 64 });
    await expect(
      (async () => {
        for await (const _ of generation);
      })(),
    ).rejects.toThrow(/65 tokens/);
  });

  test('in the middle of a text, whose chunks come first', async () => {
    const engine = await open(fakeServer({ failing: new DeviceLostError('unknown', 'gone') }));
    const chunks: string[] = [];
    const error = await (async () => {
      for await (const { text } of engine.generate('x')) chunks.push(text);
    })().catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(DeviceLostError);
    expect(error).toMatchObject({ reason: 'unknown' });
    expect(chunks.join('')).toBe('abc');
  });

  test('a loss of the device is told, but not one by destroy', async () => {
    const server = fakeServer();
    const engine = await open(server);
    server.lose(new DeviceLostError('unknown', 'driver'));
    expect(await engine.lost).toBeInstanceOf(DeviceLostError);
    const other = fakeServer();
    const told = vi.fn();
    const destroyed = await open(other);
    void destroyed.lost.then(told);
    destroyed.destroy();
    await until(() => other.calls.some(({ name }) => name === 'gpu.destroy'));
    expect(other.calls.slice(-2).map(({ name }) => name)).toEqual(['engine.destroy', 'gpu.destroy']);
    expect(told).not.toHaveBeenCalled();
  });

  test('loading ends when its signal says so, with the reason given', async () => {
    const server = fakeServer();
    const stopping = new AbortController();
    const opening = createWorkerEngine(server.worker, 'https://example.org/slow/', { signal: stopping.signal });
    await until(() => server.calls.length === 2);
    stopping.abort(new RangeError('enough'));
    await expect(opening).rejects.toThrow(new RangeError('enough'));
    await until(() => server.calls.some(({ name }) => name === 'gpu.destroy'));
    await expect(createWorkerEngine(server.worker, base, { signal: AbortSignal.abort() })).rejects.toThrow(/abort/i);
  });

  test('after destroy, and when the worker fails, nothing waits for ever', async () => {
    const server = fakeServer();
    const engine = await open(server);
    const running = engine.generate('x', { maxTokens: 1e6 });
    for await (const _ of running) {
      server.worker.dispatchEvent(Object.assign(new Event('error'), { message: 'out of memory' }));
      break;
    }
    await expect(running.result).rejects.toThrow(WorkerClosedError);
    await expect(running.result).rejects.toThrow(/its worker failed \(out of memory\). Create another/);
    await expect(engine.generate('x').result).rejects.toThrow(WorkerClosedError);
    await expect(engine.score([1])).rejects.toThrow(WorkerClosedError);
    const other = await open(fakeServer());
    other.destroy();
    other.destroy();
    await expect(other.generate('x').result).rejects.toThrow(/it was destroyed/);
    const silent = Object.assign(new EventTarget(), { postMessage() {} });
    const opening = createWorkerEngine(silent, base);
    silent.dispatchEvent(new Event('error'));
    await expect(opening).rejects.toThrow(/its script could not be loaded/);
  });
});

describe('errors as data', () => {
  const roundTrip = (error: unknown): Error => reviveError(structuredClone(describeError(error)));

  test.each([
    new InvalidArgumentError('a', [1, 2], 'b'),
    new LimitExceededError('w', 'l', 2, 1, 'r'),
    new ModelFileError('f', 'p', { missing: true }),
    new TypeError('t'),
    new PagewiseError('plain'),
  ])('%s keeps class, fields and stack', (error) => {
    const revived = roundTrip(error);
    expect(revived).toBeInstanceOf(error.constructor);
    expect(revived).toEqual(error);
    expect([revived.name, revived.message, revived.stack]).toEqual([error.name, error.message, error.stack]);
    expect(Object.prototype.toString.call(revived)).toBe('[object Error]');
  });

  test('a cause goes along, a field that cannot be cloned does not', () => {
    const error = Object.assign(new ModelFileError('f', 'p', { cause: new RangeError('deep') }), { hook: () => 1, size: 3 });
    const revived = roundTrip(error);
    expect(revived.cause).toEqual(new RangeError('deep'));
    expect(revived.cause).toBeInstanceOf(RangeError);
    expect(revived).toMatchObject({ size: 3, missing: false });
    expect(revived).not.toHaveProperty('hook');
  });

  test('an abort stays one, an unknown class keeps its name, and what is no error becomes one', () => {
    const abort = roundTrip(new DOMException('stopped', 'AbortError'));
    expect(abort).toBeInstanceOf(DOMException);
    expect([abort.name, abort.message]).toEqual(['AbortError', 'stopped']);
    class Odd extends Error {
      override readonly name = 'Odd';
    }
    expect([roundTrip(new Odd('o')).name, roundTrip(new Odd('o')).message]).toEqual(['Odd', 'o']);
    expect(roundTrip('text').message).toBe('text');
  });

  test('an outcome is a value or an error', async () => {
    expect(unwrap(await outcomeOf(() => 3))).toBe(3);
    const failed = await outcomeOf(() => Promise.reject(new InvalidArgumentError('a', 1, 'b')));
    expect(() => unwrap(failed)).toThrow(InvalidArgumentError);
  });
});
