/** Buffers of f32 and of f16, one from the other, on the GPU and without shader-f16. */
import { bindBuffers } from './tensors.ts';

const source = `
@group(0) @binding(0) var<storage, read> halves: array<u32>;
@group(0) @binding(1) var<storage, read_write> floats: array<vec2f>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) grid: vec3u) {
  for (var i = id.x; i < arrayLength(&floats); i += grid.x * 64u) { CONVERT }
}`;

/** An f16 buffer of the values of an f32 one, rounded. The caller destroys it. */
export function toHalves(device: GPUDevice, floats: GPUBuffer): Promise<GPUBuffer> {
  const code = source.replace('var<storage, read>', 'var<storage, read_write>').replace('CONVERT', 'halves[i] = pack2x16float(floats[i]);');
  return convert(device, code, floats, floats.size / 2, (made) => [made, floats]);
}

/** An f32 buffer of the values of an f16 one. The caller destroys it. */
export function fromHalves(device: GPUDevice, halves: GPUBuffer): Promise<GPUBuffer> {
  const code = source.replace('CONVERT', 'floats[i] = unpack2x16float(halves[i]);');
  return convert(device, code, halves, halves.size * 2, (made) => [halves, made]);
}

async function convert(
  device: GPUDevice,
  code: string,
  from: GPUBuffer,
  size: number,
  bindings: (made: GPUBuffer) => readonly GPUBuffer[],
) {
  const made = device.createBuffer({ size, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST });
  const pipeline = await device.createComputePipelineAsync({ layout: 'auto', compute: { module: device.createShaderModule({ code }) } });
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, bindBuffers(device, pipeline, bindings(made)));
  pass.dispatchWorkgroups(Math.min(Math.ceil(Math.max(from.size, size) / 512), 65_535));
  pass.end();
  device.queue.submit([encoder.finish()]);
  return made;
}
