import type { Gpu, OpenGpuOptions } from '../../src/gpu.ts';
import type { HostName, Variant } from './events.ts';

/** What a spec is given. Everything opened or deferred through it is closed when the spec ends. */
export interface SpecContext {
  /** The device of this run: shared with the other specs of the same variant, so leave nothing behind on it. */
  readonly gpu: Gpu;
  /** The host's entry to WebGPU, as `OpenGpuOptions.gpu` takes it. */
  readonly api: GPU;
  readonly host: HostName;
  readonly variant: Variant;
  /** True in the long run (`--full`). */
  readonly full: boolean;
  /** For cases that differ from run to run: the same seed makes the same ones (`--seed`). */
  readonly seed: number;
  /** Opens a device of this spec's own, with the variant's limits unless told otherwise; destroyed after the spec. */
  openGpu(options?: OpenGpuOptions): Promise<Gpu>;
  /** Runs `cleanup` after the spec, in reverse order, whether it passed or not. */
  defer(cleanup: () => void | Promise<void>): void;
  /** Reads a file of the repository, such as `demo/model/model.safetensors`. Rejects when there is none. */
  readFile(path: string): Promise<Uint8Array<ArrayBuffer>>;
  /** Prints a line under the spec's name. */
  log(line: string): void;
}

export interface SpecOptions {
  /** Features of the device (`shader-f16`), of WGSL (`packed_4x8_integer_dot_product`) or of the host (`indexedDB`); without one, the spec is skipped and counted. */
  readonly requires?: readonly string[];
  /** The devices to run on; default both. Slow specs of whole models take one. */
  readonly devices?: 'both' | Variant;
  /**
   * True where the library alone decides what the spec shows, whatever host computes: scheduling, bookkeeping, what is refused, and further shapes
   * of kernels of which other specs run some. `--once` leaves it out.
   */
  readonly hostIndependent?: boolean;
  /** Run only in the long run (`--full`); not counted as skipped otherwise. */
  readonly full?: boolean;
  /** Milliseconds after which the run is given up; default two minutes. */
  readonly timeout?: number;
}

export type SpecBody = (t: SpecContext) => void | Promise<void>;

export interface Spec extends SpecOptions {
  readonly name: string;
  readonly run: SpecBody;
}

/** Loads a spec file, which calls `spec` as it is evaluated. */
export type SpecFiles = Readonly<Record<string, () => Promise<unknown>>>;

const declared: Spec[] = [];

/** Declares a spec. It knows no host: whatever differs between hosts comes through `t` or through `requires`. */
export function spec(name: string, run: SpecBody, options: SpecOptions = {}): void {
  declared.push({ name, run, ...options });
}

/** Loads the spec files in order and returns their specs, each named "file / name". */
export async function loadSpecs(files: SpecFiles, only?: readonly string[]): Promise<Spec[]> {
  const names = only ?? Object.keys(files);
  const specs = new Map<string, Spec>();
  for (const file of names) {
    const load = files[file];
    if (!load) throw new Error(`No spec file "${file}" in test/gpu/all.ts. There are: ${Object.keys(files).join(', ')}.`);
    declared.length = 0;
    await load();
    for (const one of declared) {
      const name = `${file} / ${one.name}`;
      if (specs.has(name)) throw new Error(`Two specs are named "${name}".`);
      specs.set(name, { ...one, name });
    }
  }
  return [...specs.values()];
}
