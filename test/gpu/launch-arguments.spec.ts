/** Per-call values on both paths, and buffers that change or go. */
import {
  type ArgumentDeclaration,
  type ArgumentPath,
  BufferDestroyedError,
  defineKernel,
  perCall,
  readBuffer,
  swappable,
  writeBuffer,
} from '../../src/index.ts';
import { expect, expectEqual, expectThrows, random, readFloats, type SpecContext, spec, uploadBuffer } from '../harness/harness.ts';
import { countObjects } from './observe.ts';
import { mixKernel, openCache, poisoned, setKernel, submit } from './tiny.ts';

const once = { devices: 'granted' } as const;
const immediates = { requires: ['immediate_address_space'] } as const;

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
