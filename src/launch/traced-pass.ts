/** One launch as it was recorded: enough to record it again. */
export interface TracedLaunch {
  /** The pipeline's label: the kernel's name. */
  readonly kernel: string;
  /** Host milliseconds (`performance.now`) from the end of the launch before it to its own. */
  readonly begin: number;
  readonly end: number;
  readonly replay: (pass: GPUComputePassEncoder) => void;
}

type Immediates = Parameters<GPUComputePassEncoder['setImmediates']>;

/**
 * Stands in for a compute pass: hands every call on to a real one, and remembers it. A `LaunchSite` cannot tell the difference. Only what
 * launches need is there.
 */
export class TracedPass {
  readonly launches: TracedLaunch[] = [];
  readonly #pass: GPUComputePassEncoder;
  readonly #groups = new Map<number, GPUBindGroup | null>();
  #pipeline: GPUComputePipeline | undefined;
  #immediates: Immediates | undefined;
  #last = performance.now();

  constructor(pass: GPUComputePassEncoder) {
    this.#pass = pass;
  }

  /** As the type that launches take. */
  asPass(): GPUComputePassEncoder {
    return this as unknown as GPUComputePassEncoder;
  }

  setPipeline(pipeline: GPUComputePipeline): void {
    this.#pipeline = pipeline;
    this.#pass.setPipeline(pipeline);
  }

  setBindGroup(index: number, group: GPUBindGroup | null): void {
    this.#groups.set(index, group);
    this.#pass.setBindGroup(index, group);
  }

  setImmediates(...values: Immediates): void {
    const [at, data, ...range] = values;
    this.#immediates = [at, structuredClone(data), ...range] as Immediates; // the caller reuses its memory
    this.#pass.setImmediates(...values);
  }

  dispatchWorkgroups(x: number, y?: number, z?: number): void {
    this.#pass.dispatchWorkgroups(x, y, z);
    this.#note((pass) => pass.dispatchWorkgroups(x, y, z));
  }

  dispatchWorkgroupsIndirect(buffer: GPUBuffer, offset: number): void {
    this.#pass.dispatchWorkgroupsIndirect(buffer, offset);
    this.#note((pass) => pass.dispatchWorkgroupsIndirect(buffer, offset));
  }

  #note(dispatch: (pass: GPUComputePassEncoder) => void): void {
    const begin = this.#last;
    this.#last = performance.now();
    const pipeline = this.#pipeline;
    const groups = [...this.#groups];
    const immediates = this.#immediates;
    this.launches.push({
      kernel: pipeline?.label || 'unnamed',
      begin,
      end: this.#last,
      replay: (pass) => {
        if (pipeline) pass.setPipeline(pipeline);
        for (const [index, group] of groups) pass.setBindGroup(index, group);
        if (immediates) pass.setImmediates(...immediates);
        dispatch(pass);
      },
    });
  }
}
