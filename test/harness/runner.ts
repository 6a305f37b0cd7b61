import { type Gpu, type OpenGpuOptions, openGpu } from '../../src/gpu.ts';
import { watchErrors } from './error-scopes.ts';
import type { HarnessEvent, HostName, RunOptions, Variant } from './events.ts';
import { sharePipelines } from './shared-pipelines.ts';
import { loadSpecs, type Spec, type SpecContext, type SpecFiles } from './spec.ts';

/** What a host gives the runner. */
export interface Host {
  readonly name: HostName;
  /** Its name and version, to print. */
  readonly runtime: string;
  readonly api: GPU | undefined;
  readFile(path: string): Promise<Uint8Array<ArrayBuffer>>;
  emit(event: HarnessEvent): void;
}

const defaultTimeout = 120_000;

/** Runs the specs one after another, each on the devices it asks for, and reports all through `host.emit`. */
export async function runSpecs(host: Host, files: SpecFiles, options: RunOptions): Promise<void> {
  const specs = await loadSpecs(files, options.files);
  const runs = specs
    .filter(({ full, hostIndependent }) => options.full || !(full || (options.once && hostIndependent)))
    .flatMap((spec) => variantsOf(spec, options.once).map((variant) => ({ spec, variant, name: `${spec.name} [${variant}]` })))
    .filter(({ name, variant }) => name.includes(options.filter ?? '') && variant === (options.variant ?? variant));
  if (options.list) return host.emit({ event: 'list', names: runs.map(({ name }) => name) });

  const totals = { passed: 0, failed: 0, skipped: 0 };
  const devices = new Map<Variant, Gpu>();
  const open = (more: OpenGpuOptions) => openGpu({ gpu: host.api, ...more });
  const shared = async (variant: Variant) => {
    const old = devices.get(variant);
    if (old && !old.loss) return old;
    const gpu = await open({ limits: variant });
    sharePipelines(gpu.device);
    devices.set(variant, gpu);
    return gpu;
  };

  const first = await shared(options.variant ?? 'granted');
  host.emit({
    event: 'host',
    host: host.name,
    runtime: host.runtime,
    adapter: adapterText(first),
    features: [...first.device.features].sort(),
    runs: runs.length,
  });
  for (const { spec, variant, name } of runs) {
    const gpu = await shared(variant);
    const missing = spec.requires?.find((feature) => !hasFeature(host, gpu, feature));
    if (missing) {
      totals.skipped++;
      host.emit({ event: 'skip', name, missing });
      continue;
    }
    const timeout = spec.timeout ?? defaultTimeout;
    host.emit({ event: 'start', name, timeout });
    const start = performance.now();
    const message = await runOne(host, spec, variant, gpu, name, options, open);
    const milliseconds = performance.now() - start;
    totals[message === undefined ? 'passed' : 'failed']++;
    host.emit(message === undefined ? { event: 'pass', name, milliseconds } : { event: 'fail', name, milliseconds, message });
  }
  for (const gpu of devices.values()) gpu.destroy();
  host.emit({ event: 'end', ...totals });
}

/** Runs one spec inside error scopes; returns what went wrong, or undefined. */
async function runOne(
  host: Host,
  spec: Spec,
  variant: Variant,
  gpu: Gpu,
  name: string,
  options: RunOptions,
  open: (more: OpenGpuOptions) => Promise<Gpu>,
): Promise<string | undefined> {
  const problems: string[] = [];
  const watches = [watchErrors(gpu)];
  const cleanups: (() => void | Promise<void>)[] = [];
  const context: SpecContext = {
    gpu,
    api: host.api!,
    host: host.name,
    variant,
    full: options.full ?? false,
    seed: options.seed ?? 1,
    async openGpu(more = {}) {
      const own = await open({ limits: variant, ...more });
      watches.push(watchErrors(own));
      cleanups.push(() => own.destroy());
      return own;
    },
    defer: (cleanup) => void cleanups.push(cleanup),
    readFile: host.readFile,
    log: (line) => host.emit({ event: 'log', name, line }),
  };
  const attempt = async (body: () => unknown) => {
    try {
      await body();
    } catch (error) {
      problems.push(error instanceof Error ? (error.stack ?? String(error)) : String(error));
    }
  };
  let timer: ReturnType<typeof setTimeout> | undefined;
  const limit = spec.timeout ?? defaultTimeout;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      gpu.destroy();
      reject(new Error(`not finished after ${limit} ms; its device was destroyed`));
    }, limit);
  });
  await attempt(() => Promise.race([spec.run(context), late]));
  clearTimeout(timer);
  for (const watch of watches) problems.push(...(await watch.close()));
  for (const cleanup of cleanups.reverse()) await attempt(cleanup);
  return problems.length ? problems.join('\n') : undefined;
}

function variantsOf({ devices = 'both' }: Spec, once = false): readonly Variant[] {
  if (devices !== 'both') return [devices];
  return once ? ['default'] : ['granted', 'default'];
}

function hasFeature(host: Host, gpu: Gpu, feature: string): boolean {
  return gpu.device.features.has(feature) || (host.api?.wgslLanguageFeatures?.has(feature) ?? false) || feature in globalThis;
}

function adapterText({ adapter }: Gpu): string {
  const words = [adapter.vendor, adapter.architecture, adapter.device, adapter.description].filter((word) => /[a-z]/i.test(word));
  return words.join(' ') || 'unnamed adapter';
}
