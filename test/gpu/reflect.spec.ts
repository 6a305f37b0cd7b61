/** Kernels derived from WGSL that knows nothing of Pagewise, against the same in TypeScript. */
import {
  type ArgumentsOf,
  type Kernel,
  KernelCompileError,
  LaunchArgumentError,
  LaunchCache,
  type LaunchCacheMode,
} from '../../src/index.ts';
import { reflectKernel } from '../../src/reflect/index.ts';
import {
  emptyBuffer,
  expectClose,
  expectEqual,
  expectThrows,
  random,
  readBuffer,
  readFloats,
  type SpecContext,
  spec,
  uploadBuffer,
} from '../harness/harness.ts';
import { submit } from './tiny.ts';

type Values = ArgumentsOf<Kernel['arguments']>;

function openCache(t: SpecContext, mode: LaunchCacheMode = 'on'): LaunchCache {
  const cache = new LaunchCache(t.gpu, { mode });
  t.defer(() => cache.destroy());
  return cache;
}

/** y = a x + y within a window, all of it chosen by the uniform. Bindings have gaps and are out of order. */
const saxpyWgsl = `
  struct Window { factor: f32, range: vec2u, @align(32) shift: vec3f, last: i32 }
  @group(0) @binding(7) var<uniform> window: Window;
  @group(0) @binding(5) var<storage, read_write> y: array<f32>;
  @group(0) @binding(2) var<storage> x: array<f32>;
  @compute @workgroup_size(64) fn saxpy(@builtin(global_invocation_id) id: vec3u) {
    let at = window.range.x + id.x;
    if (at < window.range.y) {
      y[at] += window.factor * x[at] + window.shift.x + 10 * window.shift.y + 100 * window.shift.z + f32(window.last);
    }
  }`;

for (const mode of ['on', 'off', 'verify'] as const) {
  spec(`a window of a x + y, 20 times in one submit, mode ${mode}`, async (t) => {
    const numbers = random(11);
    const xs = numbers.normals(500);
    const ys = numbers.normals(500);
    const [x, y] = [uploadBuffer(t, xs), uploadBuffer(t, ys)];
    const kernel = reflectKernel(saxpyWgsl, { workgroups: { x: (n) => Math.ceil((n['range.y'] - n['range.x']) / 64) } });
    const call = (first: number, end: number, factor: number): Values => ({
      ...{ x, y, factor, last: -first, 'range.x': first, 'range.y': end },
      ...{ 'shift.x': factor / 2, 'shift.y': first / 100, 'shift.z': 0.25 },
    });
    const cache = openCache(t, mode);
    const site = await cache.prepare(kernel, call(0, 1, 0));
    const calls = Array.from({ length: 20 }, (_, i) => [17 * i, 17 * i + 13 * (i % 9), numbers.normal()] as const);
    submit(cache, (pass) => {
      for (const [first, end, factor] of calls) site.record(pass, call(first, end, factor));
    });
    for (const [first, end, factor] of calls) {
      for (let at = first; at < end; at++) ys[at] += factor * xs[at] + factor / 2 + first / 10 + 25 - first;
    }
    expectClose(await readFloats(t.gpu, y), ys, { atol: 1e-3, label: 'y' });
    expectEqual(cache.stats().falseHits, 0, 'false hits');
  });
}

/** Conway's rules on a torus; the size is in overrides, one of them by number. */
const lifeWgsl = `
  @id(3) override width: u32;
  override height: u32;
  override birth: u32 = 3;
  @group(0) @binding(0) var<storage, read> cells: array<u32>;
  @group(0) @binding(1) var<storage, read_write> next_cells: array<u32>;
  fn block(column: u32, row: u32) -> u32 { return cells[(row % height) * width + column % width]; }
  @compute @workgroup_size(8, 8) fn main(@builtin(global_invocation_id) id: vec3u) {
    if (id.x >= width || id.y >= height) { return; }
    var read = 0u;
    for (var type_of = 0u; type_of < 9; type_of++) {
      if (type_of != 4) { read += block(id.x + width + type_of % 3 - 1, id.y + height + type_of / 3 - 1); }
    }
    next_cells[id.y * width + id.x] = select(0u, 1u, read == birth || (read == 2 && block(id.x, id.y) == 1));
  }`;

function lifeStep(cells: readonly number[], width: number, height: number): number[] {
  return cells.map((cell, at) => {
    let sum = 0;
    for (let dy = -1; dy <= 1; dy++) {
      for (let dx = -1; dx <= 1; dx++) {
        const [column, row] = [((at % width) + dx + width) % width, (Math.floor(at / width) + dy + height) % height];
        if (dx !== 0 || dy !== 0) sum += cells[row * width + column];
      }
    }
    return sum === 3 || (sum === 2 && cell === 1) ? 1 : 0;
  });
}

spec('the game of life, 12 steps between two buffers, two sizes in turn', async (t) => {
  const cache = openCache(t);
  const life = reflectKernel(lifeWgsl, {
    name: 'life',
    workgroups: { x: ({ width }) => Math.ceil(width / 8), y: ({ height }) => Math.ceil(height / 8) },
    defaults: ['birth'],
    swappable: ['cells', 'next_cells'],
  });
  const numbers = random(4);
  for (const [width, height] of [
    [21, 13],
    [8, 30],
    [21, 13],
  ]) {
    let cells = Array.from({ length: width * height }, () => Number(numbers.integer(3) === 0));
    const [a, b] = [uploadBuffer(t, Uint32Array.from(cells)), emptyBuffer(t, cells.length * 4)];
    const site = await cache.prepare(life, { width, height, cells: a, next_cells: b });
    submit(cache, (pass) => {
      for (let step = 0; step < 12; step++) {
        const [from, to] = step % 2 === 0 ? [a, b] : [b, a];
        site.record(pass, { width, height, cells: from, next_cells: to });
        cells = lifeStep(cells, width, height);
      }
    });
    expectEqual(new Uint32Array(await readBuffer(t.gpu, a)), Uint32Array.from(cells), `cells of ${width} x ${height}`);
  }
  expectEqual(cache.stats().pipelines, 2, 'pipelines');
});

/** A box blur of packed RGBA pixels; two passes of one text, a frozen radius and a direction that is a key. */
const blurWgsl = `
  struct Image { size: vec2<u32>, rows: u32 }
  override radius: i32;
  override vertical: bool;
  @group(0) @binding(0) var<storage, read> source: array<u32>;
  @group(0) @binding(1) var<storage, read_write> blurred: array<u32>;
  @group(0) @binding(2) var<uniform> image: Image;
  @compute @workgroup_size(16, 4) fn blur(@builtin(global_invocation_id) id: vec3u) {
    if (any(id.xy >= image.size)) { return; }
    var sum = vec4f();
    for (var i = -radius; i <= radius; i++) {
      let at = vec2i(id.xy) + select(vec2i(i, 0), vec2i(0, i), vertical);
      let inside = vec2u(clamp(at, vec2i(0), vec2i(image.size) - 1));
      sum += unpack4x8unorm(source[inside.y * image.size.x + inside.x]);
    }
    blurred[id.y * image.size.x + id.x] = pack4x8unorm(sum / f32(2 * radius + 1));
  }`;

function blur(pixels: Uint8Array, width: number, height: number, radius: number, vertical: boolean): Uint8Array {
  return pixels.map((_, byte) => {
    const [column, row] = [Math.floor(byte / 4) % width, Math.floor(byte / 4 / width)];
    let sum = 0;
    for (let i = -radius; i <= radius; i++) {
      const x = Math.min(Math.max(column + (vertical ? 0 : i), 0), width - 1);
      const y = Math.min(Math.max(row + (vertical ? i : 0), 0), height - 1);
      sum += pixels[4 * (y * width + x) + (byte % 4)];
    }
    return Math.floor(sum / (2 * radius + 1) + 0.5);
  });
}

spec('a blur, across and down', async (t) => {
  const [width, height, radius] = [37, 22, 3];
  const kernel = reflectKernel(blurWgsl, {
    workgroups: { x: (n) => Math.ceil(n['size.x'] / 16), y: (n) => Math.ceil(n['size.y'] / 4) },
    frozen: ['radius'],
  });
  const numbers = random(8);
  const pixels = Uint8Array.from({ length: width * height * 4 }, () => numbers.integer(256));
  const [image, between, result] = [uploadBuffer(t, pixels), emptyBuffer(t, pixels.length), emptyBuffer(t, pixels.length)];
  const cache = openCache(t);
  const size = { 'size.x': width, 'size.y': height, rows: 0 };
  const across = { radius, vertical: false, source: image, blurred: between, ...size };
  const down = { radius, vertical: true, source: between, blurred: result, ...size };
  const sites = await Promise.all([cache.prepare(kernel, across), cache.prepare(kernel, down)]);
  submit(cache, (pass) => {
    sites[0].record(pass, across);
    sites[1].record(pass, down);
  });
  const expected = blur(blur(pixels, width, height, radius, false), width, height, radius, true);
  // A sum that ends on a half may be rounded either way, twice.
  expectClose(new Uint8Array(await readBuffer(t.gpu, result)), expected, { atol: 1, label: 'pixels' });
  const error = await expectThrows(LaunchArgumentError, () => cache.prepare(kernel, { ...across, radius: 4 }), /is frozen at 3/);
  expectEqual(error.argument, 'radius');
});

spec('arguments are checked when a reflected kernel is prepared', async (t) => {
  const cache = openCache(t);
  const buffer = emptyBuffer(t, 64);
  const kernel = reflectKernel(saxpyWgsl, { workgroups: { x: () => 1 } });
  const zeros = { factor: 0, 'range.x': 0, 'range.y': 0, 'shift.x': 0, 'shift.y': 0, 'shift.z': 0, last: 0 };
  await expectThrows(LaunchArgumentError, () => cache.prepare(kernel, { ...zeros, x: buffer }), /"y": is missing/);
  await expectThrows(LaunchArgumentError, () => cache.prepare(kernel, { ...zeros, x: 1, y: buffer }), /"x": must be a buffer/);
  await expectThrows(
    LaunchArgumentError,
    () => cache.prepare(kernel, { ...zeros, range: 1, x: buffer, y: buffer }),
    /"range": is not declared/,
  );
});

spec("the compiler's message names the line of the text as it was given", async (t) => {
  const wgsl = '// one\n@id(1) override wrong: u32;\n@compute @workgroup_size(1) fn main() {\n  let x = wrong + missing;\n}';
  const kernel = reflectKernel(wgsl, { workgroups: { x: () => 1 } });
  const error = await expectThrows(KernelCompileError, () => openCache(t).prepare(kernel, { wrong: 1 }));
  expectEqual(error.source.split('\n')[3], '   4 |   let x = wrong + missing;', 'source');
});
