import { Engine, filesFrom } from '../../src/engine/index.ts';
import {
  BlocksExhaustedError,
  CapacityExceededError,
  ContextLengthError,
  DeviceLostError,
  InvalidArgumentError,
  ModelFileError,
} from '../../src/index.ts';
import { expect, expectEqual, expectThrows, spec } from '../harness/harness.ts';
import { countObjects, delayReadbacks } from './observe.ts';
import { loadEngine } from './shipped.ts';

const prompt = 'Once upon a time';
const greedy = { temperature: 0, maxTokens: 24 };
const once = { devices: 'granted' } as const;
const onceAnywhere = { ...once, hostIndependent: true } as const;

spec(
  'a decode step makes no object and writes once',
  async (t) => {
    const { gpu } = t;
    const engine = await loadEngine(t, { runAhead: 2 }, undefined, gpu);
    await engine.generate(prompt, greedy).result;
    const counts = countObjects(t, gpu);
    const before = engine.launchStats();
    const { ids } = await engine.generate(prompt, { ...greedy, maxTokens: 40 }).result;
    const steps = ids.length; // the prompt's step and one for each further token
    const after = engine.launchStats();
    expectEqual(counts.created, {}, 'objects created');
    expect(counts.writes <= 2 * steps, `${counts.writes} writes in ${steps} steps`);
    expectEqual(counts.submits, steps, 'submits');
    expect(counts.readBytes <= 16 * steps, `${counts.readBytes} bytes read back in ${steps} steps`);
    expectEqual(
      [after.pipelines - before.pipelines, after.bindGroups - before.bindGroups, after.misses],
      [0, 0, 0],
      'compiled, bound, missed',
    );
    t.log(`${counts.writes} writes, ${counts.writtenBytes} bytes written, ${counts.readBytes} bytes read in ${steps} steps`);
  },
  once,
);

spec(
  'running ahead hides a slow readback and changes no token',
  async (t) => {
    const { gpu } = t;
    const engine = await loadEngine(t, { runAhead: 1 }, undefined, gpu);
    const expected = await engine.generate(prompt, { temperature: 0, maxTokens: 64 }).result;
    const readbacks = delayReadbacks(t, 100);
    const run = async (runAhead: number, maxTokens: number) => {
      Object.assign(readbacks, { all: 0, overlapping: 0, most: 0 });
      const { ids, stats } = await engine.generate(prompt, { temperature: 0, maxTokens, runAhead }).result;
      expectEqual([...ids], expected.ids.slice(0, maxTokens), `tokens at depth ${runAhead}`);
      expectEqual(stats.runAhead, runAhead, 'depth');
      return { ...readbacks };
    };
    // Whoever waits for each token has one readback on its way at a time; ahead by eight, all but the first begin while others are.
    const waiting = await run(1, 8);
    expectEqual([waiting.overlapping, waiting.most], [0, 1], 'readbacks at depth 1');
    const ahead = await run(8, 64);
    expectEqual(ahead.most, 8, 'most readbacks at once at depth 8');
    expect(ahead.overlapping >= 56, `${ahead.overlapping} of ${ahead.all} readbacks began while others were on their way`);
  },
  once,
);

spec(
  'text is the same for every depth, cache mode, chunk size and block size',
  async (t) => {
    const long = 'Once upon a time, there was a little girl named Lily. She loved to play outside in the sunshine with her dog.';
    const options = { temperature: 0.8, topK: 40, topP: 0.9, seed: 7, maxTokens: 20 };
    const first = await loadEngine(t);
    const expected = await first.generate(long, options).result;
    for (const runAhead of [1, 3, 32]) {
      expectEqual((await first.generate(long, { ...options, runAhead }).result).text, expected.text, `text at depth ${runAhead}`);
    }
    for (const change of [{ launchCache: 'off' }, { launchCache: 'verify' }, { maxTokensPerStep: 8 }, { blockSize: 8 }] as const) {
      const engine = await loadEngine(t, { runAhead: 2, ...change });
      expectEqual((await engine.generate(long, options).result).text, expected.text, `text with ${JSON.stringify(change)}`);
      expectEqual(engine.launchStats().falseHits, 0, 'false hits');
    }
  },
  { devices: 'default', timeout: 300_000, hostIndependent: true },
);

spec(
  'kernels for graphics processors and for CPUs write the same text',
  async (t) => {
    const asHardware = Object.create(t.gpu, { adapter: { value: { ...t.gpu.adapter, software: !t.gpu.adapter.software } } });
    const [one, other] = [await loadEngine(t), await loadEngine(t, {}, undefined, asHardware)];
    const long = 'Once upon a time, there was a little girl named Lily. She loved to play outside.';
    expectEqual((await other.generate(long, greedy).result).text, (await one.generate(long, greedy).result).text, 'text');
  },
  onceAnywhere,
);

spec(
  'seeds decide the text, side by side, too',
  async (t) => {
    const engine = await loadEngine(t);
    const write = (seed: number) => engine.generate(prompt, { temperature: 1, seed, maxTokens: 12 }).result;
    const [a, b, c] = await Promise.all([write(1), write(2), write(1)]);
    expectEqual([...c.ids], [...a.ids], 'ids of one seed');
    expect(a.text !== b.text, `two seeds gave "${a.text}"`);
  },
  once,
);

spec(
  'chunks joined are the text; breaking off, aborting and stopping give the blocks back',
  async (t) => {
    const engine = await loadEngine(t);
    const free = engine.kv.blocks.free;
    const generation = engine.generate(prompt, greedy);
    let text = '';
    const ids: number[] = [];
    for await (const chunk of generation) {
      text += chunk.text;
      ids.push(...chunk.ids);
    }
    const result = await generation.result;
    expectEqual([text, ids], [result.text, [...result.ids]], 'chunks');
    expectEqual(result.finishReason, 'length', 'finish reason');

    for await (const _ of engine.generate(prompt, greedy)) break;
    const abort = new AbortController();
    const aborted = engine.generate(prompt, { ...greedy, signal: abort.signal });
    for await (const _ of aborted) abort.abort();
    expectEqual((await aborted.result).finishReason, 'abort', 'finish reason after an abort');
    expect((await aborted.result).ids.length < 24, 'an abort ends a generation early');

    // The token that greedy text has at place 5 as a stop token: five tokens and the stop.
    const stopping = await stoppingEngine(t, result.ids[5]);
    const stopped = await stopping.generate(prompt, { ...greedy, runAhead: 8 }).result;
    const end = result.ids.indexOf(result.ids[5]);
    expectEqual([stopped.finishReason, [...stopped.ids]], ['stop', result.ids.slice(0, end + 1)], 'stop');
    expectEqual([engine.kv.blocks.free, engine.kv.sequences.size], [free, 0], 'free blocks and open sequences');
    expectEqual(stopping.kv.sequences.size, 0, 'open sequences');
  },
  once,
);

/** The shipped model with another stop token. */
async function stoppingEngine(t: Parameters<typeof loadEngine>[0], stop: number): Promise<Engine> {
  const files = filesFrom('demo/model', async (name) => {
    if (name === 'generation_config.json') return new TextEncoder().encode(JSON.stringify({ eos_token_id: [4095, stop] }));
    return t.readFile(`demo/model/${name}`).catch(() => undefined);
  });
  const engine = await Engine.load(t.gpu, files, {});
  t.defer(() => engine.destroy());
  return engine;
}

spec(
  'a manifest of an earlier visit compiles everything ahead, and a foreign one is no harm',
  async (t) => {
    const { gpu } = t;
    const first = await loadEngine(t, {}, undefined, gpu);
    const { text } = await first.generate(prompt, greedy).result;
    const manifest: unknown = JSON.parse(JSON.stringify(first.manifest()));
    const again = await loadEngine(t, { manifest }, undefined, gpu);
    expectEqual((await again.generate(prompt, greedy).result).text, text, 'text');
    expectEqual(again.launchStats().pipelines, first.launchStats().pipelines, 'pipelines');
    const variants = (engine: Engine) => engine.manifest().variants.map((one) => JSON.stringify(one)); // in the order in which compiles ended
    expectEqual(variants(again).sort(), variants(first).sort(), 'manifest');
    const foreign = await loadEngine(t, { manifest: { version: 99 } }, undefined, gpu);
    expectEqual((await foreign.generate(prompt, greedy).result).text, text, 'text with a foreign manifest');
  },
  once,
);

spec(
  'weights take at most 1.05 times their file, and destroy frees every buffer',
  async (t) => {
    const { gpu } = t;
    const counts = countObjects(t, gpu);
    const { byteLength } = await t.readFile('demo/model/model.safetensors');
    const files = filesFrom('demo/model', (name) => t.readFile(`demo/model/${name}`).catch(() => undefined));
    const engine = await Engine.load(gpu, files);
    await engine.generate(prompt, greedy).result;
    await engine.score([0, 5, 9]);
    expect(engine.weightBytes <= 1.05 * byteLength, `weights take ${engine.weightBytes} bytes, their file ${byteLength}`);
    expect((counts.created.createBuffer ?? 0) > 20, 'buffers are counted');
    engine.destroy();
    expectEqual(counts.liveBuffers(), 0, 'buffers alive after destroy');
  },
  once,
);

spec(
  'a prompt within the budget takes the same launches whatever its length',
  async (t) => {
    const engine = await loadEngine(t, { runAhead: 1 });
    const launches = async (length: number) => {
      const before = engine.launchStats().launches;
      await engine.generate(
        Array.from({ length }, (_, i) => i + 300),
        { ...greedy, maxTokens: 1 },
      ).result;
      return engine.launchStats().launches - before;
    };
    const [one, short, long] = [await launches(2), await launches(40), await launches(200)];
    expectEqual([short, long], [one, one], 'launches of prompts of 40 and 200 tokens');
  },
  onceAnywhere,
);

spec(
  'bad requests are refused before anything happens',
  async (t) => {
    const engine = await loadEngine(t);
    const free = engine.kv.blocks.free;
    const refused = (options: Parameters<Engine['generate']>[1], message: RegExp) =>
      expectThrows(InvalidArgumentError, () => engine.generate(prompt, options), message);
    await refused({ temperature: Number.NaN }, /temperature is NaN/);
    await refused({ temperature: -1 }, /temperature is -1/);
    await refused({ topK: 1.5 }, /topK is 1.5/);
    await refused({ topP: 0 }, /topP is 0/);
    await refused({ topP: 2 }, /topP is 2/);
    await refused({ seed: -1 }, /seed is -1/);
    await refused({ maxTokens: 0 }, /maxTokens is 0/);
    await refused({ runAhead: 33 }, /runAhead is 33/);
    await expectThrows(InvalidArgumentError, () => engine.generate([]), /prompt is "empty"/);
    await expectThrows(InvalidArgumentError, () => engine.generate([0, 4096]), /token id is 4096/);
    await expectThrows(ContextLengthError, () => engine.generate(Array(1024).fill(5)), /1024 tokens.*Shorten/);
    await expectThrows(InvalidArgumentError, () => loadEngine(t, { blockSize: 12 }), /blockSize is 12/);
    await expectThrows(InvalidArgumentError, () => loadEngine(t, { runAhead: 0 }), /runAhead is 0/);
    await expectThrows(InvalidArgumentError, () => loadEngine(t, { contextLength: 2048 }), /contextLength is 2048/);
    const ids = await loadEngine(t, {}, 'test/golden/fixtures/llama');
    await expectThrows(ModelFileError, () => ids.generate('text'), /tokenizer.json.*token ids/);
    expectEqual(engine.kv.blocks.free, free, 'free blocks');
  },
  onceAnywhere,
);

spec(
  'running out of blocks rejects the generation and frees what it had',
  async (t) => {
    const engine = await loadEngine(t, { numBlocks: 6, runAhead: 2 });
    const others = engine.kv.open(); // what the engine does not know of
    engine.kv.extend(others, 3 * 16);
    await expectThrows(BlocksExhaustedError, () => engine.generate(prompt, { temperature: 0, maxTokens: 64 }).result, /0 free of 5/);
    await expectThrows(
      BlocksExhaustedError,
      async () => {
        for await (const _ of engine.generate(prompt, { temperature: 0, maxTokens: 64 }));
      },
      /0 free of 5/,
    );
    expectEqual([engine.kv.blocks.free, engine.kv.sequences.size], [2, 1], 'free blocks and open sequences');
    const { ids } = await engine.generate(prompt, { temperature: 0, maxTokens: 8 }).result;
    expectEqual(ids.length, 8, 'tokens afterwards');
    // Alone it has the whole pool, which is told.
    engine.kv.close(others);
    const whole = await engine.generate(prompt, { temperature: 0, ignoreEos: true }).result;
    expectEqual(
      [whole.promptIds.length + whole.ids.length, whole.finishReason],
      [engine.maxSequenceLength, 'length'],
      'tokens, and the end',
    );
    expectEqual(engine.maxSequenceLength, 5 * 16, 'tokens that the pool holds');
    for (let row = 0; row <= engine.maxSequences; row++) engine.kv.open();
    await expectThrows(CapacityExceededError, () => engine.generate(prompt, greedy).result, /maxSequences/);
  },
  onceAnywhere,
);

spec(
  'a lost device rejects what runs and what comes',
  async (t) => {
    const gpu = await t.openGpu();
    const engine = await loadEngine(t, {}, undefined, gpu);
    const generation = engine.generate(prompt, { temperature: 0, maxTokens: 200 });
    let chunks = 0;
    await expectThrows(DeviceLostError, async () => {
      for await (const _ of generation) if (++chunks === 3) gpu.destroy();
    });
    await expectThrows(DeviceLostError, () => engine.generate(prompt, greedy).result);
    await expectThrows(DeviceLostError, () =>
      Engine.load(
        gpu,
        filesFrom('demo/model', (name) => t.readFile(`demo/model/${name}`)),
      ),
    );
    expectEqual(engine.kv.sequences.size, 0, 'open sequences');
  },
  once,
);
