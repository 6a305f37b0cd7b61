/** What no single reference shows: that ways to the same result agree, and what is refused. */
import {
  AttentionModificationError,
  type BatchEntry,
  InvalidArgumentError,
  KvCache,
  type KvCacheOptions,
  LaunchCache,
  type LayerOptions,
  PagedAttention,
  type PagedAttentionOptions,
  type Sequence,
} from '../../src/index.ts';
import {
  emptyBuffer,
  expect,
  expectClose,
  expectEqual,
  expectThrows,
  type Random,
  random,
  readBuffer,
  readFloats,
  type SpecContext,
  spec,
  uploadBuffer,
} from '../harness/harness.ts';
import { decodeE4m3, decodeE5m2, e4m3Codes } from './formats.ts';
import { shuffleBlocks } from './paged.ts';

const once = { devices: 'granted' } as const;
const heads = { numHeads: 4, numKvHeads: 2, headDim: 32 };
const querySize = heads.numHeads * heads.headDim;
const keySize = heads.numKvHeads * heads.headDim;
const maxTokens = 320;

interface Setup {
  readonly kv?: Partial<KvCacheOptions>;
  readonly options?: Partial<PagedAttentionOptions>;
  readonly layer?: Partial<LayerOptions>;
}

/** One layer over a poisoned, permuted cache; rows come from a seed and the token's number, so that any two layers can be given the same. */
async function openLayer(t: SpecContext, { kv: kvOptions, options, layer: layerOptions }: Setup = {}, cache = new LaunchCache(t.gpu)) {
  t.defer(() => cache.destroy());
  const { numHeads, ...layout } = heads;
  const kv = new KvCache(t.gpu, {
    ...{ numLayers: 1, numBlocks: 120, maxSequences: 8, maxBlocksPerSequence: 80, blockSize: 16, dtype: 'f32', ...layout },
    ...kvOptions,
  });
  t.defer(() => kv.destroy());
  for (const pool of kv.pools.flat()) t.gpu.device.queue.writeBuffer(pool, 0, new Uint8Array(pool.size).fill(0xff));
  shuffleBlocks(kv, random(99));
  const attention = new PagedAttention(cache, kv, { numHeads, maxTokensPerStep: maxTokens, ...options });
  t.defer(() => attention.destroy());
  const query = emptyBuffer(t, maxTokens * querySize * 4);
  const key = emptyBuffer(t, maxTokens * keySize * 4);
  const value = emptyBuffer(t, maxTokens * keySize * 4);
  const output = emptyBuffer(t, maxTokens * querySize * 4);
  const [layer] = await Promise.all([attention.prepareLayer(0, { query, key, value, output, ...layerOptions }), attention.prepare()]);

  /** Appends what the inputs hold, and attends. */
  const submit = (batch: readonly BatchEntry[], cascades?: Parameters<PagedAttention['plan']>[1]): void => {
    attention.plan(batch, cascades);
    attention.write();
    const encoder = t.gpu.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    attention.updateTables(pass);
    layer.append(pass);
    layer.attend(pass);
    pass.end();
    cache.submit([encoder.finish()]);
  };
  /** The same with the rows of a text for each entry's sequence: equal texts have equal rows. */
  const step = async (batch: readonly (BatchEntry & { readonly text?: number })[], cascades?: Parameters<PagedAttention['plan']>[1]) => {
    const rows = batch.flatMap(({ sequence, queryLen, text = 0 }) =>
      Array.from({ length: queryLen }, (_, i) => rowsOf(text, sequence.length - queryLen + i)),
    );
    const join = (name: 'query' | 'key' | 'value') => Float32Array.from(rows.flatMap((row) => [...row[name]]));
    for (const [buffer, name] of [
      [query, 'query'],
      [key, 'key'],
      [value, 'value'],
    ] as const)
      if (rows.length > 0) t.gpu.device.queue.writeBuffer(buffer, 0, join(name)); // Deno 2.9 panics on a write of no bytes
    submit(batch, cascades);
    return (await readFloats(t.gpu, output)).slice(0, rows.length * querySize);
  };
  /** A new sequence of `length` tokens, all but the last `queryLen` appended. */
  const begin = async (length: number, text = 0, queryLen = 1): Promise<Sequence> => {
    const sequence = kv.open();
    for (let done = 0; done < length - queryLen; ) {
      const count = Math.min(maxTokens, length - queryLen - done);
      kv.extend(sequence, count);
      await step([{ sequence, queryLen: count, text }]);
      done += count;
    }
    kv.extend(sequence, queryLen);
    return sequence;
  };
  return { cache, kv, attention, layer, submit, step, begin, output };
}

const known = new Map<string, { query: Float32Array; key: Float32Array; value: Float32Array }>();

/** A token's rows, by its text and place. */
function rowsOf(text: number, place: number) {
  const name = `${text},${place}`;
  const numbers: Random = random(1 + 7919 * text + place);
  const rows = known.get(name) ?? { query: numbers.normals(querySize), key: numbers.normals(keySize), value: numbers.normals(keySize) };
  known.set(name, rows);
  return rows;
}

const close = { atol: 1e-5, rtol: 1e-4 };

spec('one row alone, split, unsplit, or through the prefill kernel is the same row', async (t) => {
  const results: Float32Array[] = [];
  for (const options of [
    {},
    { minSegmentKeys: 64, targetWorkgroups: 64 },
    { filterByQueryLen: false },
    { filterByQueryLen: false, minSegmentKeys: 64 },
  ]) {
    const { begin, step } = await openLayer(t, { options });
    results.push(await step([{ sequence: await begin(401), queryLen: 1 }]));
  }
  for (const result of results.slice(1)) expectClose(result, Float64Array.from(results[0]), close);
});

spec(
  'a long row in one piece is the same as in many',
  async (t) => {
    // Lavapipe ends loops after 65,536 rounds of an invocation, without an error.
    const [numHeads, headDim, length] = [8, 64, 9000];
    const numbers = random(41);
    const query = uploadBuffer(t, numbers.normals(length * numHeads * headDim));
    const key = uploadBuffer(t, numbers.normals(length * headDim));
    const value = uploadBuffer(t, numbers.normals(length * headDim));
    const results: Float32Array[] = [];
    for (const options of [{ minSegmentKeys: 100_000 }, { minSegmentKeys: 256 }]) {
      const cache = new LaunchCache(t.gpu);
      t.defer(() => cache.destroy());
      const kv = new KvCache(t.gpu, {
        ...{
          numLayers: 1,
          numBlocks: 142,
          maxSequences: 1,
          maxBlocksPerSequence: 141,
          blockSize: 64,
          numKvHeads: 1,
          headDim,
          dtype: 'f32',
        },
      });
      t.defer(() => kv.destroy());
      const attention = new PagedAttention(cache, kv, { numHeads, maxTokensPerStep: length, ...options });
      t.defer(() => attention.destroy());
      const output = emptyBuffer(t, numHeads * headDim * 4);
      const [layer] = await Promise.all([attention.prepareLayer(0, { query, key, value, output }), attention.prepare()]);
      const sequence = kv.open();
      kv.extend(sequence, length);
      for (const [queryLen, record] of [
        [length, layer.append],
        [1, layer.attend],
      ] as const) {
        attention.plan([{ sequence, queryLen }]);
        attention.write();
        const encoder = t.gpu.device.createCommandEncoder();
        const pass = encoder.beginComputePass();
        attention.updateTables(pass);
        record(pass);
        pass.end();
        cache.submit([encoder.finish()]);
      }
      results.push(await readFloats(t.gpu, output));
    }
    expectClose(results[0], Float64Array.from(results[1]), close);
  },
  once,
);

spec(
  'in deterministic mode a row is bit-equal alone and in any batch',
  async (t) => {
    const { begin, step, kv } = await openLayer(t, { options: { deterministic: true, minSegmentKeys: 128 } });
    const row = await begin(300, 1);
    const alone = await step([{ sequence: row, queryLen: 1, text: 1 }]);
    const others = [await begin(500, 2), await begin(17, 3, 5), await begin(40, 4)];
    const [first, second, third] = others;
    const batch = [
      { sequence: first, queryLen: 1, text: 2 },
      { sequence: second, queryLen: 5, text: 3 },
      { sequence: row, queryLen: 1, text: 1 },
      { sequence: third, queryLen: 1, text: 4 },
    ];
    const together = await step(batch);
    expectEqual([...together.slice(6 * querySize, 7 * querySize)], [...alone], 'row in a batch');
    kv.close(first);
    const draft = await step([{ sequence: second, queryLen: 5, text: 3 }]);
    expectEqual([...draft], [...together.slice(querySize, 6 * querySize)], 'rows of a longer query');
  },
  once,
);

spec(
  'a cascade gives what each sequence gives alone, and reads the prefix once',
  async (t) => {
    const alone = await openLayer(t, { options: { cascade: 'off' } });
    const shared = await openLayer(t, { options: { cascade: 'auto' } });
    const run = async ({ begin, kv, step }: Awaited<ReturnType<typeof openLayer>>, cascades?: Parameters<typeof step>[1]) => {
      const first = await begin(1000, 0, 0);
      const sequences = [first, ...Array.from({ length: 5 }, () => kv.fork(first))];
      const queryLens = [1, 1, 3, 1, 1, 2];
      sequences.forEach((sequence, i) => {
        kv.extend(sequence, queryLens[i]);
      });
      const batch = sequences.map((sequence, i) => ({ sequence, queryLen: queryLens[i], text: i }));
      return step(batch, cascades).finally(() => sequences.forEach((sequence) => void kv.close(sequence)));
    };
    const expected = await run(alone);
    expectClose(await run(shared), Float64Array.from(expected), close);
    expectEqual(shared.attention.writer.read('NUM_MERGE_ROWS'), 9, 'rows merged from prefix and rest');
    const explicit = await openLayer(t, { options: { cascade: 'off' } });
    expectClose(await run(explicit, [{ first: 0, count: 6, prefixLen: 992 }]), Float64Array.from(expected), close);
    for (const wrong of [
      { first: 0, count: 6, prefixLen: 1008 },
      { first: 0, count: 7, prefixLen: 16 },
      { first: 0, count: 6, prefixLen: 15 },
    ])
      await expectThrows(InvalidArgumentError, () => run(explicit, [wrong]), /cascade/);
  },
  once,
);

spec('forks share blocks until they differ, and each keeps its own text', async (t) => {
  const forked = await openLayer(t);
  const plain = await openLayer(t);
  const first = await forked.begin(21, 0, 0);
  const second = forked.kv.fork(first);
  forked.kv.extend(first, 1);
  forked.kv.extend(second, 1);
  const actual = await forked.step([
    { sequence: first, queryLen: 1, text: 0 },
    { sequence: second, queryLen: 1, text: 5 },
  ]);
  expectEqual(forked.kv.blocks.free, 119 - 3, 'free blocks: one shared, two of their own');
  const expected = [];
  for (const text of [0, 5]) {
    const sequence = await plain.begin(21, 0, 0);
    plain.kv.extend(sequence, 1);
    expected.push(...(await plain.step([{ sequence, queryLen: 1, text }])));
  }
  expectClose(actual, Float64Array.from(expected), close);
});

for (const dtype of ['f16', 'int8'] as const) {
  spec(
    `a sequence in ${dtype} goes on as it was after save and restore, in another cache and among several buffers`,
    async (t) => {
      const source = await openLayer(t, { kv: { dtype } });
      const granted = t.gpu.limits.maxStorageBuffersPerShaderStage - 7;
      const target = await openLayer(t, { kv: { dtype, ...(granted >= 3 && { maxBlocksPerBuffer: 50 }) } });
      const saved = await source.kv.save(await source.begin(75, 2, 0));
      const copies = [source, target].map(({ kv }) => kv.restore(saved));
      const results: Float32Array[] = [];
      for (const [i, { kv, step }] of [source, target].entries()) {
        kv.extend(copies[i], 2);
        results.push(await step([{ sequence: copies[i], queryLen: 2, text: 2 }]));
      }
      expectEqual(target.kv.pools[0].length, granted >= 3 ? 3 : 1, 'buffers of the pool');
      expectEqual([...results[1]], [...results[0]], 'what comes after');
      const original = await source.begin(77, 2, 2);
      expectClose(results[0], Float64Array.from(await source.step([{ sequence: original, queryLen: 2, text: 2 }])), close);
      await expectThrows(InvalidArgumentError, async () => target.kv.restore(saved.slice(0, 60)));
    },
    { ...once, hostIndependent: dtype === 'int8' },
  );
}

spec(
  'scalars change without compiling or binding anything',
  async (t) => {
    const { layer, step, begin, cache } = await openLayer(t);
    const sequence = await begin(100);
    const all = await step([{ sequence, queryLen: 1 }]);
    const { pipelines, bindGroups } = cache.stats();
    layer.set({ window: 20, softcap: 5 });
    const some = await step([{ sequence, queryLen: 1 }]);
    expect(
      some.some((value, i) => Math.abs(value - all[i]) > 0.05),
      'window and softcap changed nothing',
    );
    const after = cache.stats();
    expectEqual([after.pipelines, after.bindGroups], [pipelines, bindGroups], 'pipelines, bind groups');
    const other = await openLayer(t, { layer: { window: 20, softcap: 5 } });
    expectClose(some, Float64Array.from(await other.step([{ sequence: await other.begin(100), queryLen: 1 }])), close);
    layer.set({ window: 'none', softcap: 'none' });
    expectEqual(await step([{ sequence, queryLen: 1 }]), all, 'without window and softcap again');
  },
  once,
);

spec(
  'modifications equal the built-in features, and their scalars compile nothing',
  async (t) => {
    const slopes = [0.5, 0.25, 0.125, 0.0625];
    const modified = await openLayer(t, {
      layer: {
        modifications: {
          scoreMod: `
fn scoreMod(score: f32, head: u32, query: u32, key: u32, token: u32) -> f32 {
  let capped = args.cap * tanh(score / args.cap);
  return capped + modData(head) * (f32(key) - f32(query));
}`,
          maskMod: `
fn maskMod(head: u32, query: u32, key: u32, token: u32) -> bool {
  return key + args.reach > query;
}`,
          scalars: { cap: 'f32', reach: 'u32' },
        },
        scalars: { cap: 8, reach: 30 },
        data: slopes,
      },
    });
    const builtIn = await openLayer(t, { layer: { softcap: 8, window: 30, alibi: { slopes } } });
    const run = async ({ begin, step }: typeof modified) => {
      const [one, three] = [await begin(90, 1), await begin(50, 2, 3)];
      return step([
        { sequence: one, queryLen: 1, text: 1 },
        { sequence: three, queryLen: 3, text: 2 },
      ]);
    };
    expectClose(await run(modified), Float64Array.from(await run(builtIn)), { atol: 1e-4, rtol: 1e-3 });
    const { pipelines } = modified.cache.stats();
    modified.layer.set({ scalars: { reach: 7, cap: 3 } });
    builtIn.layer.set({ softcap: 3, window: 7 });
    expectClose(await run(modified), Float64Array.from(await run(builtIn)), { atol: 1e-4, rtol: 1e-3 });
    expectEqual(modified.cache.stats().pipelines, pipelines, 'pipelines');
    await expectThrows(InvalidArgumentError, async () => modified.layer.set({ scalars: { other: 1 } }), /declare/);
    await expectThrows(InvalidArgumentError, async () => modified.layer.writeData([1, 2], 3), /within the 4 values/);
  },
  once,
);

spec(
  'a modification that does not compile is shown by its own line',
  async (t) => {
    const maskMod = 'fn maskMod(head: u32, query: u32, key: u32, token: u32) -> bool {\n  return key < noSuchThing;\n}';
    const open = () => openLayer(t, { layer: { modifications: { maskMod } } });
    const error = await expectThrows(AttentionModificationError, open, /maskMod, line 2: .*\n.*return key < noSuchThing/s);
    expectEqual([error.modification, error.line], ['maskMod', 2]);
    const refuse = (layer: Partial<LayerOptions>, message: RegExp) =>
      expectThrows(InvalidArgumentError, () => openLayer(t, { layer }), message);
    await refuse({ modifications: { scoreMod: 'fn other() {}' } }, /scoreMod/);
    await refuse({ modifications: { scalars: { window: 'u32' } } }, /window/);
    await refuse({ modifications: { scalars: { alibi: 'u32' } } }, /alibi/);
    await refuse({ modifications: { scalars: { x: 'bool' as 'u32' } } }, /one of u32, i32, f32/);
    await refuse({ modifications: { scalars: { x: 'f32' } } }, /scalars.x/);
  },
  once,
);

spec(
  'options that make no sense are refused by name',
  async (t) => {
    const refuse = (layer: Partial<LayerOptions>, name: RegExp) => expectThrows(InvalidArgumentError, () => openLayer(t, { layer }), name);
    for (const window of [0, -1, 1.5, Number.NaN]) await refuse({ window }, /window/);
    for (const softcap of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) await refuse({ softcap }, /softcap/);
    await refuse({ scale: Number.NaN }, /scale/);
    await refuse({ keepFirst: -1 }, /keepFirst/);
    await refuse({ keyScale: 2 }, /keyScale.*no scale/s);
    await refuse({ alibi: { slopes: [1] } }, /alibi.slopes/);
    await refuse({ sinks: [1, 2, 3, Number.NaN] }, /sinks/);
    const tensor = { dtype: 'int8', scales: 'tensor' } as const;
    await expectThrows(InvalidArgumentError, () => openLayer(t, { kv: tensor, layer: { keyScale: Number.NaN } }), /keyScale/);
    const { kv, attention, step } = await openLayer(t);
    await expectThrows(InvalidArgumentError, () => attention.prepareLayer(1, {} as LayerOptions), /layer/);
    const sequence = kv.open();
    kv.extend(sequence, 4);
    const entry = (more: Partial<BatchEntry>) => async () => attention.plan([{ sequence, queryLen: 2, ...more }]);
    await expectThrows(InvalidArgumentError, entry({ queryLen: 5 }), /queryLen/);
    await expectThrows(InvalidArgumentError, entry({ positions: [1] }), /positions/);
    await expectThrows(InvalidArgumentError, entry({ queryBias: [0, 0, 0] }), /queryBias/);
    await expectThrows(InvalidArgumentError, entry({ bidirectional: [[2, 5]] }), /bidirectional/);
    await expectThrows(
      InvalidArgumentError,
      entry({
        bidirectional: [
          [0, 2],
          [1, 3],
        ],
      }),
      /bidirectional/,
    );
    await expectThrows(InvalidArgumentError, entry({ causal: false, bidirectional: [[0, 2]] }), /bidirectional/);
    const foreign = { ...sequence, blocks: [500] };
    await expectThrows(InvalidArgumentError, async () => attention.plan([{ sequence: foreign, queryLen: 1 }]), /block is 500/);
    attention.plan([]);
    attention.write();
    expectEqual((await step([])).length, 0, 'an empty batch');
  },
  once,
);

spec(
  'every code of both 8-bit float formats is stored and decoded exactly',
  async (t) => {
    // With scales of 1 the append stores the nearest code, and a single key gives its value back.
    for (const [dtype, decode] of [
      ['fp8_e4m3', decodeE4m3],
      ['fp8_e5m2', decodeE5m2],
    ] as const) {
      const codes = Array.from({ length: 256 }, (_, code) => decode(code)).map((value) => (Number.isFinite(value) ? value + 0 : 0)); // -0 as 0
      const value = uploadBuffer(t, Float32Array.from(codes));
      const key = uploadBuffer(t, new Float32Array(256));
      const query = uploadBuffer(t, new Float32Array(512));
      const output = emptyBuffer(t, 512 * 4);
      // In f16 the key's weight would be rounded.
      const options = { shaderF16: false };
      const { kv, submit } = await openLayer(t, { kv: { dtype, scales: 'tensor' }, options, layer: { query, key, value, output } });
      const sequences = Array.from({ length: 4 }, () => kv.open());
      for (const sequence of sequences) kv.extend(sequence, 1);
      submit(sequences.map((sequence) => ({ sequence, queryLen: 1 })));
      // [token][head][headDim], two query heads for each KV head.
      const actual = await readFloats(t.gpu, output);
      const found = codes.map((_, i) => actual[Math.floor(i / 64) * 128 + (Math.floor(i / 32) % 2) * 64 + (i % 32)]);
      expectEqual(found, codes, `values of ${dtype}`);
      const words = await readBuffer(t.gpu, kv.pools[0][0]);
      const pool = dtype === 'fp8_e4m3' ? e4m3Codes(new Uint32Array(words)) : new Uint8Array(words);
      const [block] = sequences[0].blocks;
      // Behind the block's keys, 16 rows of a head side by side.
      const rows = [0, 1].flatMap((head) => [...pool.subarray((2 * block + 1) * 16 * 64 + head * 16 * 32).subarray(0, 32)]);
      const expected = Array.from({ length: 64 }, (_, code) => code);
      expectEqual(rows, expected, `codes of ${dtype}`);
    }
  },
  once,
);
