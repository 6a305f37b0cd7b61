/** What a program without a launch cache makes for a kernel, by hand and straight through the API. */
import type { BufferArgument, Gpu } from 'pagewise';
import { type ArgumentDeclarations, joinSource, type Kernel, type SelectorValue, shapeOf } from '../../src/launch/kernel.ts';
import type { Subject } from './subjects.ts';

/** Bytes between the arguments of launches in one buffer: what WebGPU may ask of uniform offsets. */
export const slotBytes = 256;

export type ArgumentStyle = 'uniform' | 'immediates' | 'none';

/** The objects of a kernel whose arguments travel in one style. */
export class HandMade {
  readonly pipeline: GPUComputePipeline;
  /** Bytes of the kernel's arguments. */
  readonly argumentBytes: number;
  readonly #device: GPUDevice;
  readonly #buffers: readonly (readonly BufferArgument[])[];
  readonly #code: string;
  readonly #style: ArgumentStyle;
  readonly #constants: Record<string, number>;
  readonly #entries: GPUBindGroupLayoutEntry[];
  readonly #layout: GPUBindGroupLayout;

  constructor({ device, unknownDirectives }: Gpu, subject: Subject, style: ArgumentStyle) {
    const kernel: Kernel = subject.kernel;
    const shape = shapeOf(kernel);
    const [args] = subject.layers;
    const selectors = Object.entries(args).filter(([name]) => ['key', 'frozen'].includes(kernel.arguments[name].class));
    const code = joinSource(
      kernel,
      Object.fromEntries(selectors) as Record<string, SelectorValue>,
      style === 'immediates' ? style : 'arena',
      unknownDirectives,
    );
    const declaration = `@group(0) @binding(${shape.buffers.length}) var<uniform> args: Arguments;`;
    this.#code = style === 'none' ? code.replace(declaration, `const args = Arguments(${subject.constants});`) : code;
    this.#constants = Object.fromEntries(shape.constants.map((name) => [name, Number(args[name])]));
    const types = shape.buffers.map(({ access }): GPUBufferBindingType => (access === 'read' ? 'read-only-storage' : 'storage'));
    if (style === 'uniform') types.push('uniform');
    this.#entries = types.map((type, binding) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer: { type } }));
    this.#buffers = subject.layers.map((layer) => shape.buffers.map(({ name }) => layer[name] as BufferArgument));
    this.#device = device;
    this.#style = style;
    this.argumentBytes = shape.argumentBytes;
    const made = this.build();
    this.#layout = made.layout;
    this.pipeline = made.pipeline;
  }

  /** Everything from the text on: shader module, layouts, pipeline. */
  build(): { readonly layout: GPUBindGroupLayout; readonly pipeline: GPUComputePipeline } {
    const device = this.#device;
    const module = device.createShaderModule({ code: this.#code });
    const layout = device.createBindGroupLayout({ entries: this.#entries });
    const pipelineLayout = device.createPipelineLayout({
      bindGroupLayouts: [layout],
      ...(this.#style === 'immediates' && { immediateSize: this.argumentBytes }),
    });
    const compute = { module, entryPoint: 'main', constants: this.#constants };
    return { layout, pipeline: device.createComputePipeline({ layout: pipelineLayout, compute }) };
  }

  /** A bind group for one launch of a layer; `uniform` holds its arguments, from `offset` on. */
  bind(launch: number, uniform?: GPUBuffer, offset = 0, layout = this.#layout): GPUBindGroup {
    const buffers = this.#buffers[launch % this.#buffers.length];
    const entries: GPUBindGroupEntry[] = buffers.map((buffer, binding) => ({
      binding,
      resource: 'buffer' in buffer ? buffer : { buffer },
    }));
    if (uniform) entries.push({ binding: entries.length, resource: { buffer: uniform, offset, size: this.argumentBytes } });
    return this.#device.createBindGroup({ layout, entries });
  }

  uniform(size = slotBytes): GPUBuffer {
    return this.#device.createBuffer({ size, usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST });
  }
}

/** A subject of any kernel; the benches vary and pack its arguments through its own methods alone. */
export function anySubject<A extends ArgumentDeclarations>(subject: Subject<A>): Subject {
  return subject as unknown as Subject;
}
