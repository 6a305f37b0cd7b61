/** Loaded before a bench in Node: begins a line with each pipeline's label, which layer.c ends with what the driver says of it. */
import { writeSync } from 'node:fs';
import { globals } from 'webgpu';

const device = /** @type {{ GPUDevice: { prototype: GPUDevice } }} */ (globals).GPUDevice.prototype;
const create = device.createComputePipeline;

/** @this {GPUDevice} @param {GPUComputePipelineDescriptor} descriptor */
function createLabelled(descriptor) {
  writeSync(process.stderr.fd, `${descriptor.label ?? 'pipeline'}:`);
  return create.call(this, descriptor);
}
device.createComputePipeline = createLabelled;
// One at a time, so that nothing comes between a label and its line.
device.createComputePipelineAsync = async function (descriptor) {
  return createLabelled.call(this, descriptor);
};
