/** What test/unit/work-counts.test.ts counts on a device that is none, counted on a real one: the hosts are asked for the same. */
import { filesFrom } from '../../src/engine/index.ts';
import { spec } from '../harness/harness.ts';
import { expectWork } from './work.ts';
import { ShippedWork, shippedSteps } from './work-cases.ts';

spec(
  'steps of the shipped model are the same work on every host',
  async (t) => {
    const gpu = await t.openGpu();
    const files = filesFrom('demo/model', (name) => t.readFile(`demo/model/${name}`).catch(() => undefined));
    const shipped = await ShippedWork.open(gpu, files);
    t.defer(() => shipped.destroy());
    for (const one of shippedSteps) {
      const encoder = gpu.device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      expectWork(
        one.name,
        shipped.step(one, () => pass),
        one.work,
      );
      pass.end();
      encoder.finish();
    }
  },
  { devices: 'default', hostIndependent: true },
);
