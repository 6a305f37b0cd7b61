import { DeviceLostError, KernelCompileError, LimitExceededError } from '../errors.ts';
import { causeOf, type Gpu } from '../gpu.ts';
import { type ArgumentPath, type BufferArgument, joinSource, type Kernel, type KernelShape, type SelectorValue } from './kernel.ts';

/** What all variants of a kernel share: explicit layouts, so that one bind group serves every variant. */
export interface KernelLayout {
  /** How per-call values reach the kernel. */
  readonly path: ArgumentPath;
  readonly bindGroupLayout: GPUBindGroupLayout;
  readonly pipelineLayout: GPUPipelineLayout;
}

export type Selectors = Readonly<Record<string, SelectorValue>>;

/** @throws {LimitExceededError} when the kernel binds more storage buffers than the device allows. */
export function createLayout(gpu: Gpu, kernel: Kernel, shape: KernelShape, preferred: ArgumentPath): KernelLayout {
  const granted = gpu.limits.maxStorageBuffersPerShaderStage;
  if (shape.buffers.length > granted) {
    const remedy = 'Bind fewer buffers, for instance by packing several into one.';
    throw new LimitExceededError(`Kernel "${kernel.name}"`, 'maxStorageBuffersPerShaderStage', shape.buffers.length, granted, remedy);
  }
  const entries: GPUBindGroupLayoutEntry[] = shape.buffers.map(({ access, binding }) => ({
    binding,
    visibility: GPUShaderStage.COMPUTE,
    buffer: { type: access === 'read' ? 'read-only-storage' : 'storage' },
  }));
  const fits = !kernel.wgsl && shape.argumentBytes <= (gpu.limits.maxImmediateSize ?? 0);
  const path = preferred === 'immediates' && fits ? 'immediates' : 'arena';
  if (shape.argumentBytes > 0 && path === 'arena') {
    const buffer = { type: 'uniform', minBindingSize: shape.argumentBytes } as const;
    entries.push({ binding: shape.argumentBinding, visibility: GPUShaderStage.COMPUTE, buffer });
  }
  const bindGroupLayout = gpu.device.createBindGroupLayout({ label: kernel.name, entries });
  const pipelineLayout = gpu.device.createPipelineLayout({
    label: kernel.name,
    bindGroupLayouts: [bindGroupLayout],
    ...(path === 'immediates' && { immediateSize: shape.argumentBytes }),
  });
  return { path, bindGroupLayout, pipelineLayout };
}

/** The kernel's buffers by name from `values`, and the buffer of its per-call values, where it has such. */
export function createBindGroup(
  device: GPUDevice,
  shape: KernelShape,
  layout: KernelLayout,
  values: Readonly<Record<string, unknown>>,
  argumentBuffer: BufferArgument | undefined,
): GPUBindGroup {
  const bound = shape.buffers.map(({ name, binding }) => ({ binding, value: values[name] as BufferArgument }));
  if (argumentBuffer) bound.push({ binding: shape.argumentBinding, value: argumentBuffer });
  const entries = bound.map(({ binding, value }) => ({ binding, resource: 'buffer' in value ? value : { buffer: value } }));
  // No label: Deno copies it at every launch, which was 5 % of a launch.
  return device.createBindGroup({ layout: layout.bindGroupLayout, entries });
}

function checkWorkgroupMemory(gpu: Gpu, kernel: Kernel, selectors: Selectors): void {
  const needed = kernel.workgroupMemory?.(selectors as never) ?? 0;
  const granted = gpu.limits.maxComputeWorkgroupStorageSize;
  if (needed <= granted) return;
  const remedy = 'Choose a smaller tile; `prepareFitting` takes the first that fits.';
  throw new LimitExceededError(`Kernel "${kernel.name}"`, 'maxComputeWorkgroupStorageSize', needed, granted, remedy);
}

function describePipeline(gpu: Gpu, kernel: Kernel, shape: KernelShape, layout: KernelLayout, selectors: Selectors) {
  const code = joinSource(kernel, selectors, layout.path, gpu.unknownDirectives);
  const module = gpu.device.createShaderModule({ label: kernel.name, code });
  const constants: Record<string, number> = {};
  for (const name of shape.constants) constants[name] = Number(selectors[name]);
  const descriptor: GPUComputePipelineDescriptor = {
    label: kernel.name,
    layout: layout.pipelineLayout,
    compute: { module, entryPoint: kernel.wgsl?.entryPoint ?? 'main', constants },
  };
  return { code, module, descriptor };
}

/**
 * Compiles one variant without blocking.
 * @throws {LimitExceededError} when the kernel says that it needs more workgroup memory than there is.
 * @throws {KernelCompileError} with the compiler's message and the numbered source.
 */
export async function compilePipeline(
  gpu: Gpu,
  kernel: Kernel,
  shape: KernelShape,
  layout: KernelLayout,
  selectors: Selectors,
): Promise<GPUComputePipeline> {
  checkWorkgroupMemory(gpu, kernel, selectors);
  gpu.device.pushErrorScope('validation');
  const { code, module, descriptor } = describePipeline(gpu, kernel, shape, layout, selectors);
  const scope = gpu.device.popErrorScope();
  try {
    const [pipeline, error] = await Promise.all([gpu.device.createComputePipelineAsync(descriptor), scope]);
    if (error) throw error;
    return pipeline;
  } catch (cause) {
    const reason = await causeOf(gpu, cause);
    if (reason instanceof DeviceLostError) throw reason;
    const scopeError = await scope.catch(() => null);
    throw await compileError(kernel, code, module, scopeError ?? cause);
  }
}

/**
 * Compiles one variant at once, for a launch that cannot wait. WebGPU says only later that the WGSL does not compile.
 * @param onFailure called then, unless the device is lost; the pipeline is invalid, and so is the command buffer that it was recorded into.
 */
export function compilePipelineSync(
  gpu: Gpu,
  kernel: Kernel,
  shape: KernelShape,
  layout: KernelLayout,
  selectors: Selectors,
  onFailure: (error: KernelCompileError) => void,
): GPUComputePipeline {
  checkWorkgroupMemory(gpu, kernel, selectors);
  gpu.device.pushErrorScope('validation');
  const { code, module, descriptor } = describePipeline(gpu, kernel, shape, layout, selectors);
  const pipeline = gpu.device.createComputePipeline(descriptor);
  gpu.device.popErrorScope().then(
    async (error) => error && onFailure(await compileError(kernel, code, module, error)),
    () => {}, // the device is lost
  );
  return pipeline;
}

async function compileError(kernel: Kernel, code: string, module: GPUShaderModule, cause: unknown): Promise<KernelCompileError> {
  const info = await module.getCompilationInfo().catch(() => undefined);
  const messages = info?.messages.filter((m) => m.type === 'error').map((m) => `line ${m.lineNum}: ${m.message}`) ?? [];
  const message = messages.join('\n') || (cause as Partial<Error>)?.message || String(cause);
  return new KernelCompileError(kernel.name, message, numberLines(code));
}

function numberLines(code: string): string {
  return code
    .split('\n')
    .map((line, index) => `${String(index + 1).padStart(4)} | ${line}`)
    .join('\n');
}
