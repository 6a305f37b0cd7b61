/** Per-call values on both paths, buffers that change or go, grids, and the self-test at opening. */
import {
  type ArgumentDeclaration,
  type ArgumentPath,
  BufferDestroyedError,
  defineKernel,
  type Gpu,
  indirectGrid,
  KernelCompileError,
  key,
  LaunchCache,
  type LaunchCacheOptions,
  type LaunchEvent,
  LimitExceededError,
  perCall,
  readBuffer,
  swappable,
  writeBuffer,
} from '../../src/index.ts';
import { hasImmediates } from '../../src/launch/self-test.ts';
import { expect, expectEqual, expectThrows, random, readFloats, type SpecContext, spec, uploadBuffer } from '../harness/harness.ts';
import { countObjects } from './observe.ts';
import { encode, mixKernel, setKernel, submit } from './tiny.ts';

const once = { devices: 'granted' } as const;
const immediates = { requires: ['immediate_address_space'] } as const;

function openCache(t: SpecContext, options: LaunchCacheOptions = {}, gpu = t.gpu): LaunchCache {
  const cache = new LaunchCache(gpu, options);
  t.defer(() => cache.destroy());
  return cache;
}

const poisoned = (t: SpecContext, length: number, gpu = t.gpu) => uploadBuffer(t, new Float32Array(length).fill(-77), undefined, gpu);

/** output[place] = input[place], from whichever input the launch passes. */
const copyKernel = defineKernel({
  name: 'copy',
  source: [
    `struct Arguments { place: u32 }
    @group(0) @binding(0) var<storage, read> input: array<f32>;
    @group(0) @binding(1) var<storage, read_write> output: array<f32>;
    @compute @workgroup_size(1) fn main() { output[args.place] = input[args.place]; }`,
  ],
  arguments: { input: swappable(readBuffer), output: writeBuffer, place: perCall('u32') },
  workgroups: { x: () => 1 },
  singleVariant: true,
});

/** Two sites of two kernels, interleaved; every launch has values of its own. */
async function manyLaunches(t: SpecContext, argumentPath: ArgumentPath, argumentSlots: number, launches: number): Promise<void> {
  const gpu = await t.openGpu();
  const cache = openCache(t, { argumentPath, argumentSlots }, gpu);
  const numbers = random(launches);
  const input = uploadBuffer(t, new Float32Array(launches).fill(0), undefined, gpu);
  const [set, mixed] = [poisoned(t, launches, gpu), poisoned(t, launches, gpu)];
  const setSite = await cache.prepare(setKernel, { output: set, place: 0, value: 0, count: 1 });
  const mixSite = await cache.prepare(mixKernel, { input, output: mixed, angle: 0, offset: 0, place: 0 });
  const counts = countObjects(t, gpu);
  for (const sign of [1, -1]) {
    const values = numbers.normals(launches);
    const writes = counts.writes;
    submit(cache, (pass) => {
      for (let place = 0; place < launches; place++) {
        setSite.record(pass, { output: set, place, value: values[place], count: 1 });
        mixSite.record(pass, { input, output: mixed, angle: 1, offset: sign * place, place });
      }
    });
    const arenas = argumentPath === 'arena' ? Math.ceil((2 * launches) / argumentSlots) : 0;
    expectEqual(counts.writes - writes, arenas, 'writes: one for each arena');
    expectEqual(await readFloats(gpu, set), values, 'values of the first site');
    expectEqual(
      [...(await readFloats(gpu, mixed))],
      Array.from({ length: launches }, (_, place) => sign * place + 0),
      'values of the second site',
    );
  }
}

spec('200 launches with 200 values in one submit, on the arena', (t) => manyLaunches(t, 'arena', 512, 100), once);
spec('100 launches in one submit, in arenas of 4 slots', (t) => manyLaunches(t, 'arena', 4, 50), once);
spec('200 launches with 200 values in one submit, on immediates', (t) => manyLaunches(t, 'immediates', 512, 100), {
  ...once,
  ...immediates,
});

/** output[place] = the sum of `fields` further values. */
function wideKernel(fields: number) {
  const names = Array.from({ length: fields }, (_, i) => `value${i}`);
  const declarations: Record<string, ArgumentDeclaration> = {
    output: writeBuffer,
    place: perCall('u32'),
    ...Object.fromEntries(names.map((name) => [name, perCall('f32')])),
  };
  return defineKernel({
    name: 'wide',
    source: [
      `struct Arguments { place: u32, ${names.map((name) => `${name}: f32`).join(', ')} }
      @group(0) @binding(0) var<storage, read_write> output: array<f32>;
      @compute @workgroup_size(1) fn main() { output[args.place] = ${names.map((name) => `args.${name}`).join(' + ')}; }`,
    ],
    arguments: declarations,
    workgroups: { x: () => 1 },
    singleVariant: true,
  });
}

spec(
  'a struct larger than the immediates goes by the arena, beside one that fits',
  async (t) => {
    const gpu = await t.openGpu();
    const cache = openCache(t, { argumentPath: 'immediates' }, gpu);
    const words = gpu.limits.maxImmediateSize! / 4;
    expect(words < 64, `${words} words of immediates are more than any struct has`);
    const counts = countObjects(t, gpu);
    for (const [fields, arenas] of [
      [words - 1, 0],
      [words, 1],
    ]) {
      const output = poisoned(t, 8, gpu);
      const kernel = wideKernel(fields);
      const launch = (place: number) => ({
        ...Object.fromEntries(Array.from({ length: fields }, (_, i) => [`value${i}`, place * 100 + i])),
        output,
        place,
      });
      const before = { writes: counts.writes, buffers: counts.created.createBuffer };
      const site = await cache.prepare(kernel, launch(0));
      submit(cache, (pass) => {
        for (let place = 0; place < 8; place++) site.record(pass, launch(place));
      });
      expectEqual([counts.writes - before.writes, counts.created.createBuffer - before.buffers], [arenas, arenas], `writes, arenas`);
      expectEqual(
        [...(await readFloats(gpu, output))],
        Array.from({ length: 8 }, (_, place) => place * 100 * fields + (fields * (fields - 1)) / 2),
        `sums of ${fields} fields`,
      );
    }
  },
  { ...once, ...immediates },
);

spec(
  'buffers that alternate get their bind groups once, and every launch its own buffer',
  async (t) => {
    const gpu = await t.openGpu();
    const counts = countObjects(t, gpu);
    const cache = openCache(t, {}, gpu);
    const inputs = [100, 200, 300].map((base) =>
      uploadBuffer(
        t,
        Float32Array.from({ length: 12 }, (_, i) => base + i),
        undefined,
        gpu,
      ),
    );
    const output = poisoned(t, 12, gpu);
    const site = await cache.prepare(copyKernel, { input: inputs[0], output, place: 0 });
    const expected = Float32Array.from({ length: 12 }, (_, i) => 100 * (1 + (i % 3)) + i);
    for (let step = 0; step < 3; step++) {
      submit(cache, (pass) => {
        for (let place = 0; place < 12; place++) site.record(pass, { input: inputs[place % 3], output, place });
      });
      expectEqual(await readFloats(gpu, output), expected, `results of step ${step}`);
      expectEqual([counts.created.createBindGroup, cache.stats().bindGroups], [12, 12], `bind groups after step ${step}`);
    }
  },
  once,
);

spec(
  'a range that its owner moves is another buffer',
  async (t) => {
    const cache = openCache(t);
    const input = uploadBuffer(
      t,
      Float32Array.from({ length: 128 }, (_, i) => i),
    );
    const output = poisoned(t, 4);
    const range = { buffer: input, offset: 0, size: 256 };
    const site = await cache.prepare(copyKernel, { input: range, output, place: 0 });
    submit(cache, (pass) => site.record(pass, { input: range, output, place: 0 }));
    range.offset = 256;
    submit(cache, (pass) => {
      site.record(pass, { input: range, output, place: 1 });
      site.record(pass, { input: { buffer: input, offset: 0, size: 256 }, output, place: 2 });
      site.record(pass, { input: range, output, place: 3 });
    });
    expectEqual([...(await readFloats(t.gpu, output))], [0, 65, 2, 67]);
  },
  once,
);

for (const mode of ['on', 'off', 'verify'] as const) {
  spec(
    `a destroyed buffer is refused before the GPU hears of it, mode ${mode}`,
    async (t) => {
      const cache = openCache(t, { mode });
      const [fixed, other] = [poisoned(t, 4), poisoned(t, 4)];
      const inputs = [1, 2, 3].map((value) => uploadBuffer(t, new Float32Array(4).fill(value)));
      const site = await cache.prepare(copyKernel, { input: inputs[0], output: fixed, place: 0 });
      const second = await cache.prepare(copyKernel, { input: inputs[0], output: other, place: 0 });
      const launch = (input: number, place: number, output = other, from = second) =>
        submit(cache, (pass) => from.record(pass, { input: inputs[input], output, place }));
      const refused = async (argument: string, ...args: Parameters<typeof launch>) => {
        const before = cache.stats().launches;
        const error = await expectThrows(BufferDestroyedError, () => launch(...args), /destroyed/);
        expectEqual([error.kernel, error.argument, cache.stats().launches - before], ['copy', argument, 0], 'error');
      };
      for (const input of [0, 1, 2]) launch(input, 0);
      inputs[0].destroy(); // not the last one used
      await refused('input', 0, 1);
      launch(2, 1);
      inputs[2].destroy(); // the last one used
      await refused('input', 2, 2);
      launch(1, 2);
      await refused('input', 0, 3);
      fixed.destroy();
      await refused('output', 1, 3, fixed, site);
      await refused('output', 1, 3, fixed, site);
      await expectThrows(BufferDestroyedError, () => cache.prepare(copyKernel, { input: inputs[1], output: fixed, place: 0 }));
      await expectThrows(BufferDestroyedError, () => cache.prepare(copyKernel, { input: inputs[0], output: other, place: 0 }));
      launch(1, 3);
      expectEqual([...(await readFloats(t.gpu, other))], [3, 3, 2, 2], 'results');
      expectEqual(cache.stats().sites, 2, 'sites');
    },
    once,
  );
}

spec(
  'buffers that come and go leave nothing behind',
  async (t) => {
    const gpu = await t.openGpu();
    const cache = openCache(t, { argumentSlots: 4 }, gpu);
    const output = poisoned(t, 4, gpu);
    const inputOf = (value: number) => uploadBuffer(t, new Float32Array(4).fill(value), undefined, gpu);
    let input = inputOf(0);
    const site = await cache.prepare(copyKernel, { input, output, place: 0 });
    const counts = countObjects(t, gpu);
    for (let step = 1; step <= 40; step++) {
      const next = inputOf(step);
      submit(cache, (pass) => {
        site.record(pass, { input, output, place: 0 });
        site.record(pass, { input: next, output, place: 1 });
        site.record(pass, { input: next, output, place: 2 });
      });
      input.destroy();
      input = next;
    }
    expectEqual([...(await readFloats(gpu, output))], [39, 40, 40, -77], 'results');
    // One input of the spec's own for each step, one readback; arenas: the slots of three launches in flight, and those let go meanwhile.
    const arenas = counts.created.createBuffer - 41;
    expect(arenas <= 2, `${arenas} further arenas of 4 slots after 40 steps`);
  },
  once,
);

/** output[workgroup] = 1 for each workgroup of the grid below `limit`. */
const source = `struct Arguments { limit: u32 }
  @group(0) @binding(0) var<storage, read_write> output: array<f32>;
  @compute @workgroup_size(1) fn main(@builtin(workgroup_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
    let index = id.x + grid.x * (id.y + grid.y * id.z);
    if (index < args.limit) { output[index] = 1.0; }
  }`;

const indirectKernel = defineKernel({
  name: 'indirect',
  source: [source],
  arguments: { output: writeBuffer, limit: perCall('u32'), grid: indirectGrid },
  workgroups: { indirect: 'grid' },
  singleVariant: true,
});

const gridKernel = defineKernel({
  name: 'grid',
  source: [source],
  arguments: { output: writeBuffer, limit: perCall('u32'), x: { class: 'grid' }, y: { class: 'grid' }, z: { class: 'grid' } },
  workgroups: { x: ({ x }) => x, y: ({ y }) => y, z: ({ z }) => z },
  singleVariant: true,
});

const ones = (count: number, length: number) => Float32Array.from({ length }, (_, i) => (i < count ? 1 : -77));

for (const mode of ['on', 'off', 'verify'] as const) {
  spec(
    `an indirect grid comes from the buffer and place that the launch names, mode ${mode}`,
    async (t) => {
      const cache = openCache(t, { mode });
      const [a, b] = [poisoned(t, 64), poisoned(t, 64)];
      const usage = GPUBufferUsage.INDIRECT | GPUBufferUsage.COPY_DST;
      const grids = uploadBuffer(t, Uint32Array.of(3, 1, 1, 5, 2, 1), usage);
      const other = uploadBuffer(t, Uint32Array.of(7, 1, 1), usage);
      const [first, second] = await Promise.all([a, b].map((output) => cache.prepare(indirectKernel, { output, limit: 0, grid: grids })));
      submit(cache, (pass) => {
        first.record(pass, { output: a, limit: 64, grid: grids });
        second.record(pass, { output: b, limit: 64, grid: { buffer: grids, offset: 12, size: 12 } });
      });
      expectEqual(await readFloats(t.gpu, a), ones(3, 64), 'first grid');
      expectEqual(await readFloats(t.gpu, b), ones(10, 64), 'second grid');
      submit(cache, (pass) => first.record(pass, { output: a, limit: 6, grid: other }));
      expectEqual(await readFloats(t.gpu, a), ones(6, 64), 'grid of another buffer, and a limit below it');
      expectEqual(cache.stats().falseHits, 0, 'false hits');
      other.destroy();
      const error = await expectThrows(BufferDestroyedError, () =>
        encode(t.gpu, (pass) => first.record(pass, { output: a, limit: 6, grid: other })),
      );
      expectEqual(error.argument, 'grid');
    },
    once,
  );
}

spec('a grid may be larger than the work, up to the limit of the device and not beyond', async (t) => {
  const cache = openCache(t);
  const output = poisoned(t, 16);
  const most = t.gpu.limits.maxComputeWorkgroupsPerDimension;
  const site = await cache.prepare(gridKernel, { output, limit: 0, x: 1, y: 1, z: 1 });
  submit(cache, (pass) => site.record(pass, { output, limit: 3, x: 4, y: 2, z: 2 }));
  expectEqual(await readFloats(t.gpu, output), ones(3, 16), 'result of 16 workgroups for 3 values');
  submit(cache, (pass) => site.record(pass, { output, limit: 11, x: most, y: 1, z: 1 }));
  expectEqual(await readFloats(t.gpu, output), ones(11, 16), 'result of the largest grid');
  for (const dimension of ['x', 'y', 'z'] as const) {
    const grid = { x: 1, y: 1, z: 1, [dimension]: most + 1 };
    const before = cache.stats();
    const error = await expectThrows(LimitExceededError, () => submit(cache, (pass) => site.record(pass, { output, limit: 16, ...grid })));
    expectEqual([error.limit, error.needed, error.granted], ['maxComputeWorkgroupsPerDimension', most + 1, most], dimension);
    const notANumber = { x: 1, y: 1, z: 1, [dimension]: Number.NaN };
    await expectThrows(LimitExceededError, () => submit(cache, (pass) => site.record(pass, { output, limit: 16, ...notANumber })));
    expectEqual(cache.stats(), before, 'counts after the refusal');
  }
  expectEqual(await readFloats(t.gpu, output), ones(11, 16), 'result after the refusals');
});

/** output[0] = the sum of a tile of ones, in workgroup memory. */
const tileKernel = defineKernel({
  name: 'tiled',
  source: [
    `@group(0) @binding(0) var<storage, read_write> output: array<f32>;
    var<workgroup> memory: array<f32, tileSize>;
    @compute @workgroup_size(64) fn main(@builtin(local_invocation_index) lane: u32) {
      for (var i = lane; i < tileSize; i += 64u) { memory[i] = 1.0; }
      workgroupBarrier();
      if (lane == 0) {
        var sum = 0.0;
        for (var i = 0u; i < tileSize; i++) { sum += memory[i]; }
        output[0] = sum;
      }
    }`,
  ],
  prelude: ({ tile }) => `const tileSize = ${tile}u;`,
  workgroupMemory: ({ tile }) => 4 * Number(tile),
  arguments: { output: writeBuffer, tile: key('text') },
  workgroups: { x: () => 1 },
});

spec('a tile that the device has no workgroup memory for falls to the next smaller one, and says so', async (t) => {
  const events: LaunchEvent[] = [];
  const cache = openCache(t, { onEvent: (event) => events.push(event) });
  const output = poisoned(t, 1);
  const bytes = t.gpu.limits.maxComputeWorkgroupStorageSize;
  const tiles = (...sizes: number[]) => sizes.map((tile) => ({ output, tile }));
  const { site, index } = await cache.prepareFitting(tileKernel, tiles(bytes, bytes / 4 + 1, 512, 256));
  expectEqual(index, 2, 'tile taken');
  const passed = events.map(
    (event) => event.type === 'fallback' && [event.kernel, event.index, event.reason instanceof LimitExceededError],
  );
  expectEqual(
    passed,
    [
      ['tiled', 0, true],
      ['tiled', 1, true],
    ],
    'tiles passed over',
  );
  submit(cache, (pass) => site.record(pass, { output, tile: 512 }));
  expectEqual([...(await readFloats(t.gpu, output))], [512], 'result');
  expectEqual([cache.stats().sites, cache.stats().pipelines], [1, 1], 'sites, pipelines');
  const error = await expectThrows(LimitExceededError, () => cache.prepareFitting(tileKernel, tiles(bytes, bytes / 2)), /smaller tile/);
  expectEqual([error.limit, error.needed, error.granted], ['maxComputeWorkgroupStorageSize', bytes * 2, bytes], 'the last error');
  await expectThrows(LimitExceededError, async () => submit(cache, (pass) => site.record(pass, { output, tile: bytes })));
  expectEqual((await cache.prepareFitting(tileKernel, tiles(512))).index, 0, 'tile that fits at once');
});

spec(
  'so does a variant that the compiler refuses',
  async (t) => {
    const cache = openCache(t);
    const output = poisoned(t, 1);
    const kernel = defineKernel({
      name: 'lanes',
      source: [
        `@group(0) @binding(0) var<storage, read_write> output: array<f32>;
        @compute @workgroup_size(lanes) fn main(@builtin(local_invocation_index) lane: u32) {
          if (lane == lanes - 1) { output[0] = f32(lane); }
        }`,
      ],
      prelude: ({ lanes }) => `const lanes = ${lanes}u;`,
      arguments: { output: writeBuffer, lanes: key('text') },
      workgroups: { x: () => 1 },
    });
    const most = t.gpu.limits.maxComputeInvocationsPerWorkgroup;
    const { site, index } = await cache.prepareFitting(kernel, [
      { output, lanes: most * 2 },
      { output, lanes: 32 },
    ]);
    expectEqual(index, 1, 'variant taken');
    submit(cache, (pass) => site.record(pass, { output, lanes: 32 }));
    expectEqual([...(await readFloats(t.gpu, output))], [31], 'result');
    await expectThrows(KernelCompileError, () => cache.prepareFitting(kernel, [{ output, lanes: most * 2 }]));
  },
  once,
);

/** 70 launches by a cache whose path was chosen by its self-test. */
async function launchesAreRight(t: SpecContext, gpu: Gpu, cache: LaunchCache): Promise<void> {
  const output = poisoned(t, 70, gpu);
  const site = await cache.prepare(setKernel, { output, place: 0, value: 0, count: 1 });
  submit(cache, (pass) => {
    for (let place = 0; place < 70; place++) site.record(pass, { output, place, value: place, count: 1 });
  });
  expectEqual(
    await readFloats(gpu, output),
    Float32Array.from({ length: 70 }, (_, i) => i),
    'launches',
  );
}

spec('opening tests the paths and takes one that works', async (t) => {
  const gpu = await t.openGpu();
  const counts = countObjects(t, gpu);
  const events: LaunchEvent[] = [];
  const cache = await LaunchCache.open(gpu, { onEvent: (event) => events.push(event) });
  const { argumentPath, passThrough, launches, pipelines, encodeTime } = cache.stats();
  expect(argumentPath === 'arena' || hasImmediates(gpu), `the path is ${argumentPath}`);
  expectEqual([passThrough, launches, pipelines, encodeTime, events], [undefined, 0, 0, [], []], 'stats after opening');
  t.log(`per-call values travel by ${argumentPath}`);
  expectEqual(counts.liveBuffers(), 0, 'buffers of the self-test');
  await launchesAreRight(t, gpu, cache);
  expectEqual([cache.stats().hits, cache.stats().uncached], [70, 0], 'hits, uncached launches');
  cache.destroy();
});

/** The device without the writes to its arenas, as a host with a broken `writeBuffer` would be. */
function dropArenaWrites({ device }: Gpu): void {
  const write = device.queue.writeBuffer.bind(device.queue) as (...args: unknown[]) => undefined;
  const value = (...args: unknown[]) => ((args[0] as GPUBuffer).label === 'pagewise arguments' ? undefined : write(...args));
  Object.defineProperty(device.queue, 'writeBuffer', { configurable: true, value });
}

spec(
  'a cache whose self-test fails stands aside, says why, and launches right all the same',
  async (t) => {
    const gpu = await t.openGpu();
    dropArenaWrites(gpu);
    const without: Gpu = Object.create(gpu, { wgslLanguageFeatures: { value: new Set() } });
    const events: LaunchEvent[] = [];
    const cache = await LaunchCache.open(without, { mode: 'verify', onEvent: (event) => events.push(event) });
    t.defer(() => cache.destroy());
    const { passThrough, argumentPath } = cache.stats();
    expect(
      /self-test failed \(arena: launch \d+ of a submit saw the values of another\)/.test(passThrough ?? ''),
      `reason: ${passThrough}`,
    );
    expectEqual([argumentPath, events], ['arena', [{ type: 'pass-through', reason: passThrough }]], 'path, events');
    await launchesAreRight(t, gpu, cache);
    expectEqual(cache.stats().uncached, 70, 'uncached launches');
  },
  once,
);

spec(
  'one path that fails leaves the other',
  async (t) => {
    const broken = await t.openGpu();
    dropArenaWrites(broken);
    const cache = await LaunchCache.open(broken);
    t.defer(() => cache.destroy());
    expectEqual([cache.stats().argumentPath, cache.stats().passThrough], ['immediates', undefined], 'without the arena');
    await launchesAreRight(t, broken, cache);

    const { prototype } = GPUComputePassEncoder;
    const { setImmediates } = prototype;
    t.defer(() => {
      prototype.setImmediates = setImmediates;
    });
    prototype.setImmediates = function (this: GPUComputePassEncoder, offset: number, data: AllowSharedBufferSource) {
      return setImmediates.call(this, offset, new Uint32Array(data.byteLength / 4));
    };
    const other = await LaunchCache.open(t.gpu);
    t.defer(() => other.destroy());
    expectEqual([other.stats().argumentPath, other.stats().passThrough], ['arena', undefined], 'without immediates');
    await launchesAreRight(t, t.gpu, other);
  },
  { ...once, ...immediates },
);

spec(
  'the host time of one launch in each 64 is kept',
  async (t) => {
    for (const mode of ['on', 'off'] as const) {
      const cache = openCache(t, { mode });
      const output = poisoned(t, 1);
      const site = await cache.prepare(setKernel, { output, place: 0, value: 0, count: 1 });
      submit(cache, (pass) => {
        for (let i = 0; i < 640; i++) site.record(pass, { output, place: 0, value: i, count: 1 });
      });
      const { encodeTime } = cache.stats();
      expectEqual(
        encodeTime.reduce((sum, [, count]) => sum + count, 0),
        10,
        `launches measured of 640, mode ${mode}`,
      );
      for (const [bound] of encodeTime) expect(Number.isInteger(Math.log2(bound)), `bucket below ${bound} us`);
    }
  },
  once,
);
