import { type Gpu, LaunchCache, type LaunchManifest, openGpu } from 'pagewise';
import { Engine } from 'pagewise/engine';
import { attentionKernels } from '../src/attention/kernels.ts';
import { modelKernels } from '../src/engine/kernels.ts';
import { type Kernel, shapeOf } from '../src/launch/kernel.ts';
import { readManifest } from '../src/launch/manifest.ts';
import { compilePipelineSync, createLayout } from '../src/launch/pipelines.ts';
import { shippedFiles } from './generate/models.ts';
import { type BenchHost, type BenchOptions, type BenchRow, rowOf } from './report.ts';

const kernels = [...attentionKernels, ...modelKernels];

/** Milliseconds of something on a device that knows no pipeline yet. */
type Start = (gpu: Gpu) => Promise<number>;

/** What a visit waits for before the first token: with a manifest of the last visit and without, and by every way to compile. */
export async function benchCold(_gpu: Gpu, host: BenchHost, options: BenchOptions) {
  const rounds = options.rounds ?? (options.quick ? 1 : 7);
  const manifest = await onFreshDevice(host, (gpu) => manifestOf(gpu, host));
  const starts: readonly { readonly name: string; readonly params: BenchRow['params']; readonly start: Start }[] = [
    { name: 'first-token', params: { pipelines: 'no manifest' }, start: (gpu) => firstToken(gpu, host) },
    { name: 'first-token', params: { pipelines: 'manifest' }, start: (gpu) => firstToken(gpu, host, manifest) },
    { name: 'compile', params: { pipelines: 'lazily, as launches need them' }, start: (gpu) => compileLazily(gpu, manifest) },
    { name: 'compile', params: { pipelines: 'ahead, one after another' }, start: (gpu) => compileSerially(gpu, manifest) },
    { name: 'compile', params: { pipelines: 'ahead, in parallel' }, start: (gpu) => compileInParallel(gpu, manifest) },
  ];
  const samples = starts.map((): number[] => []);
  for (let round = -1; round < rounds; round++) {
    for (let i = 0; i < starts.length; i++) {
      const at = (i + round + 1) % starts.length;
      const time = await onFreshDevice(host, starts[at].start);
      if (round >= 0) samples[at].push(time);
    }
  }
  const rows = starts.map(({ name, params }, i) => rowOf(name, params, 'ms', samples[i]));
  const notes = [
    `Medians of ${rounds} rounds, each start on a fresh device. first-token: from Engine.load, files in memory or near it, to the token.`,
    `compile: ${manifest.variants.length} pipelines of the shipped model, and nothing else.`,
  ];
  return { rows, notes };
}

async function onFreshDevice<T>(host: BenchHost, work: (gpu: Gpu) => Promise<T>): Promise<T> {
  const gpu = await openGpu({ gpu: host.api });
  try {
    return await work(gpu);
  } finally {
    gpu.destroy();
  }
}

async function manifestOf(gpu: Gpu, host: BenchHost): Promise<LaunchManifest> {
  const engine = await Engine.load(gpu, shippedFiles(host), { runAhead: 1 });
  const manifest = engine.manifest();
  engine.destroy();
  return manifest;
}

async function firstToken(gpu: Gpu, host: BenchHost, manifest?: LaunchManifest): Promise<number> {
  const start = performance.now();
  const engine = await Engine.load(gpu, shippedFiles(host), { runAhead: 1, manifest });
  const compiled = engine.launchStats().pipelines;
  await engine.generate('Once upon a time', { maxTokens: 1, temperature: 0 }).result;
  const time = performance.now() - start;
  if (engine.launchStats().pipelines !== compiled) throw new Error('the first step compiled a pipeline.');
  engine.destroy();
  return time;
}

/** Each pipeline at once, in turn, as a program does that compiles where it launches. */
async function compileLazily(gpu: Gpu, manifest: LaunchManifest): Promise<number> {
  const { variants } = readManifest(manifest, kernels as unknown as readonly Kernel[]);
  const start = performance.now();
  gpu.device.pushErrorScope('validation');
  const failed: Error[] = [];
  for (const { kernel, frozen, keys } of variants) {
    const shape = shapeOf(kernel);
    const layout = createLayout(gpu, kernel, shape, 'arena');
    compilePipelineSync(gpu, kernel, shape, layout, { ...frozen, ...keys }, (failure) => failed.push(failure));
  }
  // The answer comes when all before it is done, in whatever process.
  const error = await gpu.device.popErrorScope();
  if (error || failed.length > 0) throw error ?? failed[0];
  return performance.now() - start;
}

async function compileSerially(gpu: Gpu, manifest: LaunchManifest): Promise<number> {
  const cache = new LaunchCache(gpu);
  const start = performance.now();
  for (const variant of manifest.variants) await cache.warmup(kernels, { ...manifest, variants: [variant] });
  return finish(cache, manifest, start);
}

async function compileInParallel(gpu: Gpu, manifest: LaunchManifest): Promise<number> {
  const cache = new LaunchCache(gpu);
  const start = performance.now();
  await cache.warmup(kernels, manifest);
  return finish(cache, manifest, start);
}

function finish(cache: LaunchCache, manifest: LaunchManifest, start: number): number {
  const time = performance.now() - start;
  const { pipelines } = cache.stats();
  cache.destroy();
  if (pipelines !== manifest.variants.length) throw new Error(`${pipelines} of ${manifest.variants.length} pipelines were compiled.`);
  return time;
}
