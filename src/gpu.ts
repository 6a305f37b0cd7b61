import { DeviceLostError, PagewiseError, WebGpuUnavailableError } from './errors.ts';
import { hostName } from './host.ts';

/** How to open a device. */
export interface OpenGpuOptions {
  /** Where to look for WebGPU; default `navigator.gpu`. Dawn in Node passes its own. */
  readonly gpu?: GPU;
  readonly powerPreference?: GPUPowerPreference;
  /**
   * `granted` (default) asks for all that the adapter has of the limits we can use; `default` opens a device with
   * WebGPU's default limits, as the smallest phone would.
   */
  readonly limits?: 'granted' | 'default';
}

/** What an adapter says of itself. */
export interface AdapterDescription {
  readonly vendor: string;
  readonly architecture: string;
  readonly device: string;
  readonly description: string;
  /** True when the adapter is known to compute on the CPU (SwiftShader, lavapipe, WARP). */
  readonly software: boolean;
}

/** An open device and what it can do. Owned by the caller: `destroy()` frees everything made on it. */
export interface Gpu {
  readonly device: GPUDevice;
  readonly adapter: AdapterDescription;
  readonly limits: GPUSupportedLimits;
  readonly features: {
    readonly shaderF16: boolean;
    readonly subgroups: boolean;
    readonly timestampQuery: boolean;
    /**
     * Subgroups, of 32 invocations, multiply matrices of 16 x 16 of f16 into f32. Experimental: Chromium and Dawn offer it behind
     * `--enable-unsafe-webgpu`, on Linux with NVIDIA also behind the toggle `vulkan_enable_f16_on_nvidia`.
     */
    readonly subgroupMatrices: boolean;
    /** The same with matrices of 16 x 16 by 16 x 8. */
    readonly narrowMatrices: boolean;
    /** The same with matrices of 16 x 32 by 32 x 8 of i8 into i32. */
    readonly byteMatrices: boolean;
  };
  /** Invocations that a subgroup has at least; 0 without the feature. */
  readonly subgroupMinSize: number;
  /** What the host's WGSL offers beyond the core. */
  readonly wgslLanguageFeatures: ReadonlySet<string>;
  /** WGSL directives that are an error to the host's compiler, though it knows what they are for. */
  readonly unknownDirectives: ReadonlySet<string>;
  /** Resolves (never rejects) when the device is lost, also after `destroy()`. */
  readonly lost: Promise<DeviceLostError>;
  /** Undefined while the device lives; the error to throw afterwards. */
  readonly loss: DeviceLostError | undefined;
  destroy(): void;
}

/** Limits that Pagewise can put to use; each is asked for only as far as the adapter goes. */
const usefulLimits = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX',
  'maxImmediateSize',
] as const;

const subgroupMatrix = 'chromium-experimental-subgroup-matrix';
const usefulFeatures = ['shader-f16', 'subgroups', 'timestamp-query', subgroupMatrix] as const;

/** What a kernel by subgroups begins with, where what `subgroupAny` says decides for a whole subgroup whether others of their functions follow. */
export const subgroupDirectives: readonly string[] = ['enable subgroups', 'diagnostic(off, subgroup_uniformity)'];

/**
 * Deno 2.9 grants subgroups to devices, though its adapters do not list them: to wgpu they are a feature of its own. Its compiler has their
 * functions, and neither the extension nor the diagnostic of that name.
 */
const unknownToDeno: ReadonlySet<string> = new Set(subgroupDirectives);
const noDirectives: ReadonlySet<string> = new Set();
const isDeno = () => hostName() === 'deno';

/** A product of matrices of M x K by K x N. */
interface SubgroupMatrixConfig {
  readonly componentType: string;
  readonly resultComponentType: string;
  readonly M: number;
  readonly N: number;
  readonly K: number;
}

/** What Chromium and Dawn add to an adapter's info. */
interface SubgroupMatrixInfo {
  readonly subgroupMatrixConfigs?: Iterable<SubgroupMatrixConfig>;
}

/**
 * Opens a WebGPU device, with every useful feature and limit that the adapter has and none that it lacks.
 * The adapter is asked for up to five times within about a second: Chromium's first answer can be null while its GPU process starts.
 *
 * @throws {WebGpuUnavailableError} without WebGPU, without an adapter, or when the adapter refuses a device.
 */
export async function openGpu(options: OpenGpuOptions = {}): Promise<Gpu> {
  const api = options.gpu ?? globalThis.navigator?.gpu;
  if (!api) throw new WebGpuUnavailableError('no-api');
  const adapter = await requestAdapter(api, options);
  if (!adapter) throw new WebGpuUnavailableError('no-adapter');

  const requiredLimits: Record<string, number> = {};
  if (options.limits !== 'default')
    for (const name of usefulLimits) if (adapter.limits[name] !== undefined) requiredLimits[name] = adapter.limits[name];
  const listed = usefulFeatures.filter((name) => adapter.features.has(name));
  const isUnlisted = isDeno() && !adapter.features.has('subgroups');
  const request = (features: readonly string[]) =>
    adapter.requestDevice({ label: 'pagewise', requiredFeatures: features as GPUFeatureName[], requiredLimits });
  try {
    const device = await (isUnlisted ? request([...listed, 'subgroups']).catch(() => request(listed)) : request(listed));
    return gpuFromDevice(device, adapter.info, api, isUnlisted ? unknownToDeno : noDirectives);
  } catch (error) {
    throw new WebGpuUnavailableError('device-refused', String(error));
  }
}

/**
 * Wraps a device that the caller opened, so that an application and Pagewise share one. `destroy()` destroys the device.
 *
 * @param info what to report as the adapter; default `device.adapterInfo`.
 * @param api where the device came from; default `navigator.gpu`.
 * @param unknownDirectives see `Gpu`; default what Deno 2.9 does not know, there, else none
 */
export function gpuFromDevice(
  device: GPUDevice,
  info = device.adapterInfo,
  api: GPU | undefined = globalThis.navigator?.gpu,
  unknownDirectives = isDeno() ? unknownToDeno : noDirectives,
): Gpu {
  let loss: DeviceLostError | undefined;
  const lost = device.lost.then((event) => {
    loss = new DeviceLostError(event.reason, event.message);
    return loss;
  });
  return {
    device,
    adapter: describeAdapter(info),
    limits: device.limits,
    wgslLanguageFeatures: api?.wgslLanguageFeatures ?? new Set(),
    unknownDirectives,
    features: {
      shaderF16: device.features.has('shader-f16'),
      subgroups: device.features.has('subgroups'),
      timestampQuery: device.features.has('timestamp-query'),
      subgroupMatrices: hasSubgroupMatrices(device, info, { componentType: 'f16', resultComponentType: 'f32', M: 16, N: 16, K: 16 }),
      narrowMatrices: hasSubgroupMatrices(device, info, { componentType: 'f16', resultComponentType: 'f32', M: 16, N: 8, K: 16 }),
      byteMatrices: hasSubgroupMatrices(device, info, { componentType: 'i8', resultComponentType: 'i32', M: 16, N: 8, K: 32 }),
    },
    subgroupMinSize: device.features.has('subgroups') ? (info?.subgroupMinSize ?? 0) : 0,
    lost,
    get loss() {
      return loss;
    },
    destroy() {
      loss ??= new DeviceLostError('destroyed');
      device.destroy();
    },
  };
}

function hasSubgroupMatrices(
  { features }: GPUDevice,
  info: (GPUAdapterInfo & SubgroupMatrixInfo) | undefined,
  wanted: SubgroupMatrixConfig,
): boolean {
  if (![subgroupMatrix, 'shader-f16', 'subgroups'].every((name) => features.has(name))) return false;
  if (info?.subgroupMinSize !== 32 || info.subgroupMaxSize !== 32) return false;
  const names = ['componentType', 'resultComponentType', 'M', 'N', 'K'] as const;
  return [...(info.subgroupMatrixConfigs ?? [])].some((config) => names.every((name) => config[name] === wanted[name]));
}

async function requestAdapter(api: GPU, options: OpenGpuOptions): Promise<GPUAdapter | null> {
  for (let attempt = 0; ; attempt++) {
    const adapter = await api.requestAdapter({ powerPreference: options.powerPreference });
    if (adapter || attempt === 4) return adapter;
    await new Promise((resolve) => setTimeout(resolve, 50 << attempt));
  }
}

function describeAdapter(info: GPUAdapterInfo | undefined): AdapterDescription {
  const { vendor = '', architecture = '', device = '', description = '', isFallbackAdapter = false } = info ?? {};
  const text = `${vendor} ${architecture} ${device} ${description}`.toLowerCase();
  return {
    vendor,
    architecture,
    device,
    description,
    software: isFallbackAdapter || /swiftshader|llvmpipe|lavapipe|warp|basic render/.test(text),
  };
}

/**
 * The error to report for a failure: the loss of the device where that is its cause. A failed call is mostly the first sign of a loss, and
 * the device's own promise settles a moment later.
 */
export async function causeOf(gpu: Gpu, error: unknown): Promise<unknown> {
  if (gpu.loss || error instanceof PagewiseError) return gpu.loss ?? error;
  return Promise.race([gpu.lost, new Promise((resolve) => setTimeout(resolve, 200, error))]);
}
