import { afterAll, beforeAll } from 'vitest';
import { create, globals } from 'webgpu';

/** A device of Dawn's null backend for the tests of a block, with subgroup matrices: it compiles WGSL and computes nothing. @returns it, once they run */
export function useNullDevice(): () => GPUDevice {
  /** Kept for as long as the tests: Dawn's instance goes when this is collected. */
  let api: GPU;
  let device: GPUDevice;
  beforeAll(async () => {
    Object.assign(globalThis, globals);
    api = create(['backend=null', 'enable-dawn-features=allow_unsafe_apis']);
    const adapter = await api.requestAdapter();
    const requiredFeatures = ['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix'] as GPUFeatureName[];
    device = await adapter!.requestDevice({ requiredFeatures });
  });
  afterAll(() => device.destroy());
  return () => device;
}

/** What the compiler says against a shader, with the lines that it means. */
export async function complaintsOf(device: GPUDevice, code: string): Promise<readonly string[]> {
  device.pushErrorScope('validation');
  const info = await device.createShaderModule({ code }).getCompilationInfo();
  await device.popErrorScope();
  return info.messages.map(({ lineNum, message }) => `${message}: ${code.split('\n')[lineNum - 1]}`);
}
