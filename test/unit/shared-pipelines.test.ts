import { describe, expect, test, vi } from 'vitest';
import { sharePipelines } from '../harness/shared-pipelines.ts';

function deviceOf(create: () => Promise<object> = async () => ({})) {
  const createComputePipelineAsync = vi.fn(create);
  const make = () => ({});
  const device = { createShaderModule: make, createBindGroupLayout: make, createPipelineLayout: make, createComputePipelineAsync };
  sharePipelines(device as unknown as GPUDevice);
  return { device: device as unknown as GPUDevice, created: createComputePipelineAsync };
}

/** A pipeline, with its own module and layouts, as a launch cache asks for it. */
function compile(device: GPUDevice, { code = 'a', width = 1, binding = 0, immediateSize = 0 } = {}) {
  const entries = [{ binding, visibility: 4, buffer: { type: 'storage' as const } }];
  const bindGroupLayouts = [device.createBindGroupLayout({ entries })];
  const layout = device.createPipelineLayout({ bindGroupLayouts, immediateSize } as GPUPipelineLayoutDescriptor);
  return device.createComputePipelineAsync({ layout, compute: { module: device.createShaderModule({ code }), constants: { width } } });
}

describe('shared pipelines', () => {
  test('are those of the same code, constants and layout', async () => {
    const { device, created } = deviceOf();
    const first = await compile(device);
    expect(await compile(device)).toBe(first);
    expect(created).toHaveBeenCalledTimes(1);
  });

  test.each([{ code: 'b' }, { width: 2 }, { binding: 1 }, { immediateSize: 16 }])('are none of others: %j', async (other) => {
    const { device } = deviceOf();
    const first = await compile(device);
    expect(await compile(device, other)).not.toBe(first);
  });

  test('are none where the layout is left to the device', async () => {
    const { device, created } = deviceOf();
    const descriptor = { layout: 'auto', compute: { module: device.createShaderModule({ code: 'a' }) } } as const;
    await Promise.all([device.createComputePipelineAsync(descriptor), device.createComputePipelineAsync(descriptor)]);
    expect(created).toHaveBeenCalledTimes(2);
  });

  test('are compiled again after a failure', async () => {
    const { device, created } = deviceOf(() => Promise.reject(new Error('no')));
    await expect(compile(device)).rejects.toThrow('no');
    await expect(compile(device)).rejects.toThrow('no');
    expect(created).toHaveBeenCalledTimes(2);
  });
});
