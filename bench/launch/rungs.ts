import { type Gpu, LaunchCache, type LaunchCacheOptions, type LaunchSite } from 'pagewise';
import { HandMade, slotBytes } from './by-hand.ts';
import { memoryOf, type Subject } from './subjects.ts';

/** One way to launch a kernel many times in a pass. */
export interface Rung {
  readonly name: string;
  /** Most launches of a step; those that compile take as many as `compileBudget` allows. */
  readonly launches: number;
  readonly compiles: boolean;
  /** Records a step's launches; timed. */
  record(pass: GPUComputePassEncoder, step: number, launches: number): void;
  /** What must be written before the submit; timed. */
  flush(): void;
  /** After the GPU is done; not timed. */
  tidy(): void;
  destroy(): void;
}

type Parts = Pick<Rung, 'record'> & Partial<Rung>;

const nothing = (): void => {};

export interface RungOptions {
  readonly gpu: Gpu;
  readonly subject: Subject;
  /** Launches of a step. */
  readonly launches: number;
  /** Whether passes take immediates here. */
  readonly immediates: boolean;
}

/** The ladder, slowest first. */
export async function makeRungs(options: RungOptions): Promise<readonly Rung[]> {
  const { gpu, subject, launches, immediates } = options;
  const rung = (name: string, parts: Parts): Rung => ({
    ...{ name, launches, compiles: name === 'rebuild', flush: nothing, tidy: nothing, destroy: nothing },
    ...parts,
  });
  const made = new HandMade(gpu, subject, 'uniform');
  const rungs = [
    rung('rebuild', rebuild(options, made)),
    rung('pipeline-cached', pipelineCached(options, made)),
    rung('cache-off', await throughCache(options, { mode: 'off' })),
    rung('new-bind-group', pooled(options, made, false)),
    rung('write-per-launch', pooled(options, made, true)),
    rung('cached', await throughCache(options, { argumentPath: 'arena' })),
    rung('floor', floor(options, made)),
    rung('cached-unchanged', await throughCache(options, { argumentPath: 'arena' }, false)),
    rung('floor-unchanged', floor(options, made, false)),
  ];
  if (immediates && made.argumentBytes <= (gpu.limits.maxImmediateSize ?? 0)) {
    rungs.push(rung('cached-immediates', await throughCache(options, { argumentPath: 'immediates' })));
    rungs.push(rung('immediates', throughImmediates(options, new HandMade(gpu, subject, 'immediates'))));
  }
  rungs.push(rung('bare', bare(options, new HandMade(gpu, subject, 'none'))));
  return rungs;
}

/** All objects anew for each launch. */
function rebuild({ gpu, subject }: RungOptions, made: HandMade): Parts {
  const { queue } = gpu.device;
  const memory = memoryOf(slotBytes / 4);
  const uniforms: GPUBuffer[] = [];
  return {
    record(pass, step, launches) {
      for (let i = 0; i < launches; i++) {
        const args = subject.layers[i % subject.layers.length];
        subject.vary(args, step * launches + i);
        subject.pack(memory, 0, args);
        const { pipeline, layout } = made.build();
        const uniform = made.uniform();
        uniforms.push(uniform);
        queue.writeBuffer(uniform, 0, memory.u32, 0, made.argumentBytes / 4);
        pass.setPipeline(pipeline);
        pass.setBindGroup(0, made.bind(i, uniform, 0, layout));
        pass.dispatchWorkgroups(1);
      }
    },
    tidy: () => uniforms.splice(0).forEach((uniform) => void uniform.destroy()),
  };
}

/** The pipeline is kept; a uniform buffer and a bind group anew for each launch. */
function pipelineCached({ gpu, subject }: RungOptions, made: HandMade): Parts {
  const { queue } = gpu.device;
  const memory = memoryOf(slotBytes / 4);
  const uniforms: GPUBuffer[] = [];
  return {
    record(pass, step, launches) {
      for (let i = 0; i < launches; i++) {
        const args = subject.layers[i % subject.layers.length];
        subject.vary(args, step * launches + i);
        subject.pack(memory, 0, args);
        const uniform = made.uniform();
        uniforms.push(uniform);
        queue.writeBuffer(uniform, 0, memory.u32, 0, made.argumentBytes / 4);
        pass.setPipeline(made.pipeline);
        pass.setBindGroup(0, made.bind(i, uniform));
        pass.dispatchWorkgroups(1);
      }
    },
    tidy: () => uniforms.splice(0).forEach((uniform) => void uniform.destroy()),
  };
}

/** A pool of uniforms, one written for each launch; bind groups kept, or anew for each launch. */
function pooled({ gpu, subject, launches }: RungOptions, made: HandMade, kept: boolean): Parts {
  const { queue } = gpu.device;
  const memory = memoryOf(slotBytes / 4);
  const uniforms = Array.from({ length: launches }, () => made.uniform());
  const groups = kept ? uniforms.map((uniform, i) => made.bind(i, uniform)) : [];
  return {
    record(pass, step, launches) {
      for (let i = 0; i < launches; i++) {
        const args = subject.layers[i % subject.layers.length];
        subject.vary(args, step * launches + i);
        subject.pack(memory, 0, args);
        queue.writeBuffer(uniforms[i], 0, memory.u32, 0, made.argumentBytes / 4);
        pass.setPipeline(made.pipeline);
        pass.setBindGroup(0, kept ? groups[i] : made.bind(i, uniforms[i]));
        pass.dispatchWorkgroups(1);
      }
    },
    destroy: () => uniforms.forEach((uniform) => void uniform.destroy()),
  };
}

/** What the cache is measured against: a slot and a bind group for each launch, made ahead, and one write for all of a step. */
function floor({ gpu, subject, launches }: RungOptions, made: HandMade, changing = true): Parts {
  const { queue } = gpu.device;
  const memory = memoryOf((launches * slotBytes) / 4);
  const buffer = made.uniform(launches * slotBytes);
  const groups = Array.from({ length: launches }, (_, i) => made.bind(i, buffer, i * slotBytes));
  const { pipeline } = made;
  return {
    record(pass, step, launches) {
      const first = changing ? step * launches : 0;
      for (let i = 0; i < launches; i++) {
        const args = subject.layers[i % subject.layers.length];
        subject.vary(args, first + i);
        subject.pack(memory, i * (slotBytes / 4), args);
        pass.setPipeline(pipeline);
        pass.setBindGroup(0, groups[i]);
        pass.dispatchWorkgroups(1);
      }
    },
    flush: () => queue.writeBuffer(buffer, 0, memory.u32),
    destroy: () => buffer.destroy(),
  };
}

/** By hand with immediates. */
function throughImmediates({ subject }: RungOptions, made: HandMade): Parts {
  const memory = memoryOf(made.argumentBytes / 4);
  const groups = subject.layers.map((_, i) => made.bind(i));
  const { pipeline } = made;
  return {
    record(pass, step, launches) {
      for (let i = 0; i < launches; i++) {
        const layer = i % subject.layers.length;
        const args = subject.layers[layer];
        subject.vary(args, step * launches + i);
        subject.pack(memory, 0, args);
        pass.setPipeline(pipeline);
        pass.setImmediates(0, memory.u32);
        pass.setBindGroup(0, groups[layer]);
        pass.dispatchWorkgroups(1);
      }
    },
  };
}

/** Without arguments: nothing but the three calls. */
function bare({ subject }: RungOptions, made: HandMade): Parts {
  const groups = subject.layers.map((_, i) => made.bind(i));
  const { pipeline } = made;
  return {
    record(pass, _step, launches) {
      for (let i = 0; i < launches; i++) {
        pass.setPipeline(pipeline);
        pass.setBindGroup(0, groups[i % groups.length]);
        pass.dispatchWorkgroups(1);
      }
    },
  };
}

/** Through the launch cache: a site for each layer. */
async function throughCache({ gpu, subject, launches }: RungOptions, options: LaunchCacheOptions, changing = true): Promise<Parts> {
  const cache = new LaunchCache(gpu, { argumentSlots: launches, ...options });
  const sites: readonly LaunchSite[] = await Promise.all(subject.layers.map((args) => cache.prepare(subject.kernel, args)));
  return {
    record(pass, step, launches) {
      const first = changing ? step * launches : 0;
      for (let i = 0; i < launches; i++) {
        const layer = i % sites.length;
        const args = subject.layers[layer];
        subject.vary(args, first + i);
        sites[layer].record(pass, args);
      }
    },
    flush: () => cache.flush(),
    destroy: () => cache.destroy(),
  };
}
