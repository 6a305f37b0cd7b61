/** What the launch cache refuses, and that nothing is left behind by it. */
import {
  type ArgumentDeclaration,
  DeviceLostError,
  defineKernel,
  gridCount,
  InvalidArgumentError,
  KernelCompileError,
  LaunchArgumentError,
  LaunchCache,
  LaunchCacheDestroyedError,
  type LaunchCacheOptions,
  type LaunchEvent,
  LimitExceededError,
  perCall,
  readBuffer,
  writeBuffer,
} from '../../src/index.ts';
import { emptyBuffer, expect, expectEqual, expectThrows, readFloats, type SpecContext, spec, uploadBuffer } from '../harness/harness.ts';
import { frozenKernel, keyedKernel, setKernel, submit } from './tiny.ts';

const once = { devices: 'granted' } as const;

/** Compiles where `result` is an expression. */
const sometimesKernel = (result: 'key' | 'frozen') =>
  defineKernel({
    name: 'sometimes',
    source: ['@group(0) @binding(0) var<storage, read_write> output: array<f32>;'],
    prelude: (selectors) => `@compute @workgroup_size(1) fn main() { output[0] = ${selectors.result}; }`,
    arguments: { output: writeBuffer, result: { class: result, type: 'text' } },
    workgroups: { x: () => 1 },
  });

function openCache(t: SpecContext, gpu = t.gpu, options: LaunchCacheOptions = {}): LaunchCache {
  const cache = new LaunchCache(gpu, options);
  t.defer(() => cache.destroy());
  return cache;
}

spec(
  'arguments that are unknown, missing or of a wrong type are named',
  async (t) => {
    const cache = openCache(t);
    const output = emptyBuffer(t, 64);
    const good = { output, place: 0, value: 0, count: 1 };
    const bad: readonly (readonly [argument: string, message: RegExp, args: object])[] = [
      ['extra', /not declared/, { ...good, extra: 1 }],
      ['toString', /not declared/, { ...good, toString: 1 }],
      ['value', /missing/, { output, place: 0, count: 1 }],
      ['value', /missing/, { ...good, value: undefined }],
      ['output', /missing/, { ...good, output: null }],
      ['count', /missing/, { output, place: 0, value: 0 }],
      ['value', /must be a number, not string/, { ...good, value: '1' }],
      ['place', /must be a number, not boolean/, { ...good, place: true }],
      ['count', /must be a number, not object/, { ...good, count: output }],
      ['output', /must be a buffer, not number/, { ...good, output: 3 }],
      ['output', /must be a buffer, not object/, { ...good, output: new Float32Array(4) }],
      ['output', /must be a buffer, not object/, { ...good, output: { offset: 0, size: 16 } }],
    ];
    for (const [argument, message, args] of bad) {
      const error = await expectThrows(LaunchArgumentError, () => cache.prepare(setKernel, args as typeof good), message);
      expectEqual([error.kernel, error.argument], ['set', argument]);
    }
    const keys = { output, a: 1, b: 1, place: 0 };
    for (const a of ['1', true, null] as readonly unknown[]) {
      const error = await expectThrows(LaunchArgumentError, () => cache.prepare(keyedKernel, { ...keys, a: a as number }));
      expectEqual(error.argument, 'a');
    }
    const { launches, prepares, sites, pipelines, bindGroups } = cache.stats();
    expectEqual([launches, prepares, sites, pipelines, bindGroups], [0, 0, 0, 0, 0], 'counts');
    await cache.prepare(setKernel, good);
  },
  once,
);

spec(
  'a frozen argument that changed is named, and changes nothing',
  async (t) => {
    const cache = openCache(t);
    const output = uploadBuffer(t, Float32Array.of(-77, -77));
    const site = await cache.prepare(frozenKernel, { output, factor: 2, place: 0, value: 0 });
    const change = () => cache.prepare(frozenKernel, { output, factor: 3, place: 0, value: 0 });
    const error = await expectThrows(LaunchArgumentError, change, /frozen at 2 .* 3 was passed/);
    expectEqual([error.kernel, error.argument], ['frozen', 'factor']);
    expectEqual([cache.stats().sites, cache.stats().pipelines], [1, 1], 'sites, pipelines');
    submit(cache, (pass) => site.record(pass, { output, factor: 2, place: 1, value: 21 }));
    expectEqual(await readFloats(t.gpu, output), Float32Array.of(-77, 42));
  },
  once,
);

spec('WGSL that does not compile gives the message and the numbered source', async (t) => {
  const cache = openCache(t);
  const output = emptyBuffer(t, 64);
  const broken = defineKernel({
    name: 'broken',
    source: ['struct Arguments { value: f32 }', '@compute @workgroup_size(1)\nfn main() {\n  let x = args.value + noSuchName;\n}'],
    prelude: () => '// prelude',
    arguments: { output: writeBuffer, value: perCall('f32') },
    workgroups: { x: () => 1 },
    singleVariant: true,
  });
  const prepare = () => cache.prepare(broken, { output, value: 1 });
  const error = await expectThrows(KernelCompileError, prepare, /"broken" does not compile/);
  expectEqual(error.kernel, 'broken');
  expect(error.compilerMessage.includes('noSuchName'), `the compiler's message is missing from "${error.compilerMessage}"`);
  const lines = error.source.split('\n');
  expectEqual(lines[0], '   1 | // prelude');
  expectEqual(lines[5], '   6 |   let x = args.value + noSuchName;');
  expect(error.message.includes(error.compilerMessage) && error.message.includes(error.source), 'the message lacks its parts');

  const several = await Promise.allSettled([prepare(), prepare(), prepare()]);
  for (const outcome of several) expect(outcome.status === 'rejected' && outcome.reason instanceof KernelCompileError, 'no error');
  expectEqual([cache.stats().sites, cache.stats().pipelines], [0, 0], 'sites, pipelines');
});

spec('a pipeline that the device refuses is reported the same way', async (t) => {
  const cache = openCache(t);
  const output = emptyBuffer(t, 64);
  const bodies = {
    'no entry point': 'fn other() {}',
    'another binding':
      '@group(0) @binding(5) var<storage, read_write> far: array<f32>;\n@compute @workgroup_size(1) fn main() { far[0] = 1.0; }',
    'too large a workgroup': '@compute @workgroup_size(100000) fn main() {}',
  };
  for (const [name, body] of Object.entries(bodies)) {
    const kernel = defineKernel({
      name,
      source: [body],
      arguments: { output: writeBuffer },
      workgroups: { x: () => 1 },
      singleVariant: true,
    });
    const error = await expectThrows(KernelCompileError, () => cache.prepare(kernel, { output }));
    expect(error.compilerMessage.length > 10, `"${name}" has the message "${error.compilerMessage}"`);
    expect(error.source.includes(body.split('\n')[0]), `"${name}" has no source`);
  }
});

for (const mode of ['on', 'off'] as const) {
  spec(
    `mode ${mode}: a launch that could not wait for its variant and found that it does not compile is told, and the next one throws`,
    async (t) => {
      const events: LaunchEvent[] = [];
      const cache = openCache(t, t.gpu, { mode, onEvent: (event) => events.push(event) });
      const output = uploadBuffer(t, Float32Array.of(-77));
      const good = { output, result: '5.0' };
      const bad = { output, result: 'nonsense()' };
      const site = await cache.prepare(sometimesKernel('key'), good);
      const args = { ...bad };
      t.gpu.device.pushErrorScope('validation');
      submit(cache, (pass) => site.record(pass, args));
      await t.gpu.device.popErrorScope(); // whatever the host says of the command buffer
      args.result = "changed, since it is the caller's";
      while (!events.some(({ type }) => type === 'compile-error')) await new Promise((resolve) => setTimeout(resolve, 5));
      const error = await expectThrows(KernelCompileError, async () => submit(cache, (pass) => site.record(pass, bad)), /nonsense/);
      expectEqual([error.kernel, error.source.includes('nonsense()')], ['sometimes', true]);
      submit(cache, (pass) => site.record(pass, good));
      expectEqual(await readFloats(t.gpu, output), Float32Array.of(5), 'another variant');
      await expectThrows(KernelCompileError, async () => submit(cache, (pass) => site.record(pass, bad)));
      expectEqual(events.filter(({ type }) => type === 'compile-error').length, 1, 'events');
    },
    once,
  );
}

spec(
  'a destroyed cache records nothing',
  async (t) => {
    const cache = new LaunchCache(t.gpu);
    const output = emptyBuffer(t, 64);
    const args = { output, place: 0, value: 0, count: 1 };
    const site = await cache.prepare(setKernel, args);
    cache.destroy();
    await expectThrows(LaunchCacheDestroyedError, async () => submit(cache, (pass) => site.record(pass, args)), /Open another/);
    await expectThrows(LaunchCacheDestroyedError, () => cache.prepare(setKernel, args));
    await expectThrows(LaunchCacheDestroyedError, async () => cache.submit([]));
  },
  once,
);

spec(
  'a kernel that never compiled freezes nothing',
  async (t) => {
    const cache = openCache(t);
    const output = uploadBuffer(t, Float32Array.of(-77));
    const kernel = sometimesKernel('frozen');
    const bad = { output, result: 'nonsense()' };
    await expectThrows(KernelCompileError, () => cache.prepare(kernel, bad));
    await Promise.allSettled([cache.prepare(kernel, bad), cache.prepare(kernel, bad)]);
    const site = await cache.prepare(kernel, { output, result: '5.0' });
    submit(cache, (pass) => site.record(pass, { output, result: '5.0' }));
    expectEqual(await readFloats(t.gpu, output), Float32Array.of(5));
    await expectThrows(LaunchArgumentError, () => cache.prepare(kernel, bad));
  },
  once,
);

/** output[0] = the sum of the first values of `inputs` buffers. */
function sumKernel(inputs: number) {
  const names = Array.from({ length: inputs }, (_, i) => `input${i}`);
  const declarations: Record<string, ArgumentDeclaration> = Object.fromEntries([
    ...names.map((name) => [name, readBuffer] as const),
    ['output', writeBuffer],
    ['count', gridCount],
  ]);
  const bindings = names.map((name, i) => `@group(0) @binding(${i}) var<storage, read> ${name}: array<f32>;`);
  return defineKernel({
    name: 'sum',
    source: [
      ...bindings,
      `@group(0) @binding(${inputs}) var<storage, read_write> output: array<f32>;`,
      `@compute @workgroup_size(1) fn main() { output[0] = ${names.map((name) => `${name}[0]`).join(' + ')}; }`,
    ],
    arguments: declarations,
    workgroups: { x: ({ count }) => Number(count) },
    singleVariant: true,
  });
}

spec(
  'as many storage buffers as the device has, and one more',
  async (t) => {
    const cache = openCache(t);
    const { maxStorageBuffersPerShaderStage: limit } = t.gpu.limits;
    expectEqual(limit, 8, 'storage buffers of a default device');
    const output = emptyBuffer(t, 16);
    const inputs = Array.from({ length: limit }, (_, i) => [`input${i}`, uploadBuffer(t, Float32Array.of(2 ** i))] as const);
    const args = { ...Object.fromEntries(inputs.slice(1).map(([, buffer], i) => [`input${i}`, buffer])), output, count: 1 };
    const site = await cache.prepare(sumKernel(limit - 1), args);
    submit(cache, (pass) => site.record(pass, args));
    expectEqual((await readFloats(t.gpu, output))[0], 2 ** limit - 2);

    const tooMany = () => cache.prepare(sumKernel(limit), { ...Object.fromEntries(inputs), output, count: 1 });
    const error = await expectThrows(LimitExceededError, tooMany, /"sum" needs maxStorageBuffersPerShaderStage = 9.* grants 8/);
    expectEqual([error.limit, error.needed, error.granted], ['maxStorageBuffersPerShaderStage', limit + 1, limit]);
  },
  { devices: 'default' },
);

spec(
  'bad options are refused',
  async (t) => {
    for (const argumentSlots of [0, -1, 1.5, Number.NaN])
      await expectThrows(InvalidArgumentError, () => new LaunchCache(t.gpu, { argumentSlots }));
  },
  once,
);

spec(
  'after destroy(), prepare and submit say that the device is lost',
  async (t) => {
    const gpu = await t.openGpu();
    const cache = openCache(t, gpu);
    const output = emptyBuffer(t, 64, undefined, gpu);
    const args = { output, place: 0, value: 0, count: 1 };
    await cache.prepare(setKernel, args);
    const running = cache.prepare(keyedKernel, { output, a: 1, b: 1, place: 0 });
    gpu.destroy();
    await expectThrows(DeviceLostError, () => running);
    await expectThrows(DeviceLostError, () => cache.prepare(setKernel, args));
    await expectThrows(DeviceLostError, () => cache.prepare(keyedKernel, { output, a: 2, b: 2, place: 0 }));
    await expectThrows(DeviceLostError, () => cache.submit([]));
    expectEqual(cache.stats().sites, 1, 'sites');
  },
  once,
);

spec(
  'a loss that nobody announced is told from a compile error',
  async (t) => {
    const gpu = await t.openGpu();
    const cache = openCache(t, gpu);
    const output = emptyBuffer(t, 64, undefined, gpu);
    gpu.device.destroy();
    const running = cache.prepare(setKernel, { output, place: 0, value: 0, count: 1 });
    const outcome = await running.then(
      () => 'prepared',
      (error: unknown) => error,
    );
    expect(outcome instanceof DeviceLostError, `prepare gave ${outcome}`);
    await gpu.lost;
    await expectThrows(DeviceLostError, () => cache.prepare(setKernel, { output, place: 0, value: 0, count: 1 }));
  },
  once,
);
