import { wrap } from './wrap.ts';

/**
 * Lets the specs of a device share what it compiled: a pipeline of the same WGSL, constants and layout as one that is there is that one.
 * Engines of the same model are opened by spec after spec, and the same code compiles to the same thing every time.
 */
export function sharePipelines(device: GPUDevice): void {
  const described = new WeakMap<object, string>();
  const note = <D>(name: string, describe: (descriptor: D) => unknown) => {
    wrap(device, name, (create) => (descriptor) => {
      const made = create(descriptor) as object;
      described.set(made, JSON.stringify(describe(descriptor as D)));
      return made;
    });
  };
  note<GPUShaderModuleDescriptor>('createShaderModule', ({ code }) => code);
  note<GPUBindGroupLayoutDescriptor>('createBindGroupLayout', ({ entries }) => entries);
  note<GPUPipelineLayoutDescriptor & { immediateSize?: number }>('createPipelineLayout', ({ bindGroupLayouts, immediateSize }) => [
    immediateSize,
    ...[...bindGroupLayouts].map((layout) => layout && described.get(layout)),
  ]);

  const pipelines = new Map<string, Promise<unknown>>();
  wrap(device, 'createComputePipelineAsync', (create) => (descriptor) => {
    const { layout, compute } = descriptor as GPUComputePipelineDescriptor;
    const [module, places] = [described.get(compute.module), typeof layout === 'object' && described.get(layout)];
    if (!module || !places) return create(descriptor);
    const key = JSON.stringify([module, places, compute.entryPoint, compute.constants]);
    const made = pipelines.get(key) ?? (create(descriptor) as Promise<unknown>);
    pipelines.set(key, made);
    made.catch(() => pipelines.delete(key)); // so that it fails again, in the scopes of who asks again
    return made;
  });
}
