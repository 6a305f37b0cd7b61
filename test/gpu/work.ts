/** What steps ask of a GPU, kernel by kernel: the same on every machine, so that more work shows where no clock would tell. */
import type { Gpu } from '../../src/index.ts';
import { wrap } from '../harness/wrap.ts';

export interface KernelWork {
  /** Launches by their grid, 'x y z' in workgroups. */
  readonly grids: Readonly<Record<string, number>>;
  /** Bytes of all buffers that its launches bind, arguments included, added up over the launches. */
  readonly bound: number;
}

/** The work of a step. */
export interface Work {
  readonly writes: number;
  readonly bytesWritten: number;
  readonly kernels: Readonly<Record<string, KernelWork>>;
}

/** Watches a device from now on, before anything is prepared on it. Only for devices that a test opened for itself. */
export class WorkWatch {
  readonly #names = new WeakMap<object, string>();
  readonly #bytes = new WeakMap<object, number>();
  #writes = 0;
  #bytesWritten = 0;
  #kernels = new Map<string, { grids: Record<string, number>; bound: number }>();

  constructor({ device }: Gpu) {
    wrap(device, 'createComputePipelineAsync', (original) => async (...args) => {
      const pipeline = (await original(...args)) as GPUComputePipeline;
      // The same launches with the same buffers, whether the device has subgroups or not.
      this.#names.set(pipeline, ((args[0] as GPUComputePipelineDescriptor).label ?? '').replace(/ by subgroups(?=$|,)/, ''));
      return pipeline;
    });
    wrap(device, 'createBindGroup', (original) => (...args) => {
      const group = original(...args) as GPUBindGroup;
      const { entries } = args[0] as GPUBindGroupDescriptor;
      this.#bytes.set(
        group,
        [...entries].reduce((sum, { resource }) => sum + boundBytes(resource as GPUBuffer | GPUBufferBinding), 0),
      );
      return group;
    });
    wrap(device.queue, 'writeBuffer', (original) => (...args) => {
      const [, , data, , size] = args as [GPUBuffer, number, Uint32Array, number?, number?];
      this.#writes++;
      this.#bytesWritten += size === undefined ? data.byteLength : size * data.BYTES_PER_ELEMENT;
      return original(...args);
    });
  }

  /** Counts what is recorded into a pass. @returns the pass */
  watch(pass: GPUComputePassEncoder): GPUComputePassEncoder {
    let name = '';
    let bytes = 0;
    wrap(pass, 'setPipeline', (original) => (...args) => {
      name = this.#names.get(args[0] as object) ?? 'a pipeline of before';
      return original(...args);
    });
    wrap(pass, 'setBindGroup', (original) => (...args) => {
      bytes = this.#bytes.get(args[1] as object) ?? Number.NaN;
      return original(...args);
    });
    wrap(pass, 'dispatchWorkgroups', (original) => (...args) => {
      const [x, y = 1, z = 1] = args as number[];
      const kernel = this.#kernels.get(name) ?? { grids: {}, bound: 0 };
      this.#kernels.set(name, kernel);
      const grid = `${x} ${y} ${z}`;
      kernel.grids[grid] = (kernel.grids[grid] ?? 0) + 1;
      kernel.bound += bytes;
      return original(...args);
    });
    return pass;
  }

  /** What was counted since the last call. */
  take(): Work {
    const work = { writes: this.#writes, bytesWritten: this.#bytesWritten, kernels: Object.fromEntries(this.#kernels) };
    this.#writes = this.#bytesWritten = 0;
    this.#kernels = new Map();
    return work;
  }
}

function boundBytes(resource: GPUBuffer | GPUBufferBinding): number {
  if (!('buffer' in resource)) return resource.size;
  const { buffer, offset = 0, size = buffer.size - offset } = resource;
  return size;
}

/** How work differs from what is expected of it: a line for each kernel and count that changed, with both values and their ratio. */
export function changesOfWork(actual: Work, expected: Work): readonly string[] {
  const none: KernelWork = { grids: {}, bound: 0 };
  const names = [...new Set([...Object.keys(expected.kernels), ...Object.keys(actual.kernels)])];
  const kernels = names.flatMap((name) => {
    const [is, was] = [actual.kernels[name] ?? none, expected.kernels[name] ?? none];
    return [
      ...change(`${name}: launches`, launchesOf(is), launchesOf(was)),
      ...changeOfGrids(name, is, was),
      ...change(`${name}: bytes bound`, is.bound, was.bound),
    ];
  });
  return [
    ...change('queue writes', actual.writes, expected.writes),
    ...change('bytes written', actual.bytesWritten, expected.bytesWritten),
    ...kernels,
  ];
}

/** @throws {Error} that names each kernel that changed, by how much, and what to write into the test if that is meant. */
export function expectWork(name: string, actual: Work, expected: Work): void {
  const changes = changesOfWork(actual, expected);
  if (changes.length === 0) return;
  throw new Error(`${name}: the work of a step changed.\n  ${changes.join('\n  ')}\nIf it is meant to, expect this:\n${literal(actual)}`);
}

function change(what: string, is: number, was: number): string[] {
  if (is === was) return [];
  const ratio = was === 0 ? 'new' : is === 0 ? 'gone' : `x ${(is / was).toFixed(3)}`;
  return [`${what}: ${is.toLocaleString('en')} instead of ${was.toLocaleString('en')} (${ratio})`];
}

/** Also of grids that have as many workgroups as before. */
function changeOfGrids(name: string, is: KernelWork, was: KernelWork): string[] {
  const [now, before] = [describeGrids(is), describeGrids(was)];
  if (now === before) return [];
  const workgroups = change(`${name}: workgroups`, workgroupsOf(is), workgroupsOf(was));
  return [`${workgroups[0] ?? `${name}: other grids`}; ${now} instead of ${before}`];
}

function launchesOf({ grids }: KernelWork): number {
  return Object.values(grids).reduce((sum, launches) => sum + launches, 0);
}

function workgroupsOf({ grids }: KernelWork): number {
  const size = (grid: string) => grid.split(' ').reduce((product, side) => product * Number(side), 1);
  return Object.entries(grids).reduce((sum, [grid, launches]) => sum + launches * size(grid), 0);
}

function describeGrids({ grids }: KernelWork): string {
  return (
    Object.entries(grids)
      .map(([grid, launches]) => `${launches} of ${grid.replaceAll(' ', ' x ')}`)
      .sort()
      .join(', ') || 'none'
  );
}

/** As the tests have it. */
function literal({ writes, bytesWritten, kernels }: Work): string {
  const number = (value: number) => String(value).replace(/\B(?=(\d{3})+$)/g, '_');
  const key = (name: string) => (/^\w+$/.test(name) ? name : `'${name}'`);
  const lines = Object.entries(kernels).map(([name, { grids, bound }]) => {
    const counted = Object.entries(grids).map(([grid, launches]) => `'${grid}': ${launches}`);
    return `    ${key(name)}: { grids: { ${counted.join(', ')} }, bound: ${number(bound)} },`;
  });
  return `{\n  writes: ${writes},\n  bytesWritten: ${number(bytesWritten)},\n  kernels: {\n${lines.join('\n')}\n  },\n}`;
}
