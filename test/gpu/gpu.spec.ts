import { WebGpuUnavailableError } from '../../src/errors.ts';
import { gpuFromDevice, openGpu } from '../../src/gpu.ts';
import { expect, expectClose, expectEqual, expectThrows, readFloats, spec, uploadBuffer } from '../harness/harness.ts';

spec('opens a device with the limits asked for', (t) => {
  const { limits } = t.gpu;
  if (t.variant === 'default') {
    expectEqual(limits.maxStorageBuffersPerShaderStage, 8, 'storage buffers');
    expectEqual(limits.maxComputeInvocationsPerWorkgroup, 256, 'invocations');
    expectEqual(limits.maxComputeWorkgroupStorageSize, 16384, 'workgroup memory');
  } else {
    expect(limits.maxStorageBuffersPerShaderStage > 8, `only ${limits.maxStorageBuffersPerShaderStage} storage buffers granted`);
  }
});

spec('writes a buffer and reads it back', async (t) => {
  const values = Float32Array.of(1, -2.5, 3e-5, 4e9);
  expectClose(await readFloats(t.gpu, uploadBuffer(t, values)), values);
});

spec('runs on a device that the caller opened', async (t) => {
  const adapter = await t.api.requestAdapter();
  const device = await adapter!.requestDevice({ label: 'caller' });
  const gpu = gpuFromDevice(device);
  t.defer(() => gpu.destroy());
  expect(gpu.device === device, 'not the same device');
  expectEqual(gpu.features.shaderF16, false);
  expectEqual(gpu.adapter.software, t.gpu.adapter.software, 'software');
});

spec(
  'asks five times for an adapter, then says that there is none',
  async () => {
    const api = fakeApi(Array(9).fill(null));
    const error = await expectThrows(WebGpuUnavailableError, () => openGpu({ gpu: api.gpu }), /no adapter/);
    expectEqual(error.reason, 'no-adapter');
    expectEqual(api.asked(), 5, 'requests');
  },
  { devices: 'granted' },
);

spec(
  'goes on when the third answer is an adapter',
  async (t) => {
    const api = fakeApi([null, null, await t.api.requestAdapter()]);
    const gpu = await t.openGpu({ gpu: api.gpu });
    expectEqual(api.asked(), 3, 'requests');
    expectClose(await readFloats(gpu, uploadBuffer(t, Float32Array.of(7), undefined, gpu)), [7]);
  },
  { devices: 'granted' },
);

spec(
  'says so when the adapter refuses a device',
  async (t) => {
    const adapter = { features: new Set(), limits: {}, requestDevice: () => Promise.reject(new Error('the driver said no')) };
    const api = fakeApi([adapter as unknown as GPUAdapter]);
    const error = await expectThrows(WebGpuUnavailableError, () => t.openGpu({ gpu: api.gpu }), /the driver said no/);
    expectEqual(error.reason, 'device-refused');
  },
  { devices: 'granted' },
);

spec('reports the loss of a destroyed device', async (t) => {
  const gpu = await t.openGpu();
  expectEqual(gpu.loss, undefined);
  gpu.destroy();
  expect(gpu.loss !== undefined, 'no loss at once after destroy()');
  const loss = await gpu.lost;
  expectEqual(loss.reason, 'destroyed');
  expectEqual(gpu.loss?.reason, 'destroyed');
});

/** A `GPU` that gives these answers in turn. */
function fakeApi(answers: readonly (GPUAdapter | null)[]): { gpu: GPU; asked(): number } {
  let asked = 0;
  const requestAdapter = async () => answers[asked++] ?? null;
  return { gpu: { requestAdapter } as unknown as GPU, asked: () => asked };
}
