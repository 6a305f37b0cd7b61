import { wrap } from './wrap.ts';

/**
 * Makes a device that many specs share compile a pipeline once: who asks for one that was compiled before, from the same code, layout and
 * constants, is given that one. Pipelines are immutable, and layouts explicit, so that nobody can tell but by the clock.
 * What failed is not kept: it fails again, in the error scope of whoever asks.
 */
export function sharePipelines(device: GPUDevice): void {
  const modules = new Map<string, GPUShaderModule>();
  const pipelines = new Map<string, GPUComputePipeline>();
  /** What the device's objects were made from. */
  const origins = new WeakMap<object, string>();
  let unknown = 0;
  /** A descriptor as text; the device's objects stand as what they were made from. */
  const textOf = (descriptor: unknown): string =>
    JSON.stringify(descriptor, (_, value: unknown) => {
      if (Object.is(value, -0)) return '-0';
      if (typeof value !== 'object' || value === null || isPlain(value)) return value;
      if (!origins.has(value)) origins.set(value, `unknown ${++unknown}`);
      return origins.get(value);
    });

  for (const name of ['createBindGroupLayout', 'createPipelineLayout'] as const) {
    wrap(device, name, (create) => (descriptor) => {
      const made = create(descriptor) as object;
      origins.set(made, textOf(descriptor));
      return made;
    });
  }
  wrap(device, 'createShaderModule', (create) => (descriptor) => {
    const text = textOf(descriptor);
    const module = modules.get(text) ?? (create(descriptor) as GPUShaderModule);
    origins.set(module, text);
    return module;
  });
  wrap(device, 'createComputePipeline', (create) => (descriptor) => pipelines.get(textOf(descriptor)) ?? create(descriptor));
  wrap(device, 'createComputePipelineAsync', (create) => async (descriptor) => {
    const text = textOf(descriptor);
    const known = pipelines.get(text);
    if (known) return known;
    const pipeline = (await create(descriptor)) as GPUComputePipeline;
    const { module } = (descriptor as GPUComputePipelineDescriptor).compute;
    pipelines.set(text, pipeline);
    modules.set(origins.get(module) ?? '', module); // now that it is known to compile
    return pipeline;
  });
}

function isPlain(value: object): boolean {
  return Array.isArray(value) || Object.getPrototypeOf(value) === Object.prototype;
}
