/** The three matrix products against a float64 reference. */
import { directKernel, matmulKernel, matvecKernel } from '../../src/engine/kernels.ts';
import { LaunchCache } from '../../src/index.ts';
import { expectClose, random, spec } from '../harness/harness.ts';
import { type LinearKernel, type LinearOptions, type LinearSize, runLinear } from './linear-case.ts';

const kernels: Readonly<Record<string, LinearKernel>> = { matvec: matvecKernel, matmul: matmulKernel, direct: directKernel };

/** Each option alone, those that models combine, and all at once. A combination is a pipeline, sizes are not. */
const combinations: Readonly<Record<string, LinearOptions>> = {
  'f32, plain': { dtype: 'f32' },
  'f16, normalized': { dtype: 'f16', normalized: true },
  'f16, accumulate': { dtype: 'f16', accumulate: true },
  'bf16, gathered': { dtype: 'bf16', gathered: true },
  'bf16, biased': { dtype: 'bf16', biased: true },
  'f32, swiglu': { dtype: 'f32', swiglu: true },
  'bf16, normalized swiglu biased': { dtype: 'bf16', normalized: true, swiglu: true, biased: true },
  'f16, normalized gathered': { dtype: 'f16', normalized: true, gathered: true },
  'f32, all': { dtype: 'f32', normalized: true, swiglu: true, accumulate: true, gathered: true, biased: true },
};

const sizes: readonly LinearSize[] = [
  { inputs: 8, outputs: 1, rows: 1 },
  { inputs: 24, outputs: 2, rows: 3 },
  { inputs: 72, outputs: 3, rows: 5 },
  { inputs: 320, outputs: 65, rows: 64 },
  { inputs: 24, outputs: 130, rows: 65 },
  { inputs: 8, outputs: 66, rows: 130 },
  { inputs: 72, outputs: 4096, rows: 2 },
  { inputs: 136, outputs: 64, rows: 4 },
];

for (const [kernelName, kernel] of Object.entries(kernels)) {
  for (const [name, options] of Object.entries(combinations)) {
    spec(
      `${kernelName}, ${name}`,
      async (t) => {
        const cache = new LaunchCache(t.gpu);
        t.defer(() => cache.destroy());
        for (const size of sizes) {
          if (options.swiglu && size.outputs % 2 !== 0) continue;
          const { actual, expected } = await runLinear(t, cache, kernel, options, size, random(size.outputs));
          const label = `${size.rows} rows, ${size.inputs} to ${size.outputs}`;
          expectClose(actual, expected, { atol: 1e-5, rtol: 1e-4, label });
        }
      },
      { devices: name === 'f32, all' ? 'granted' : 'default' },
    );
  }
}

spec(
  'matvec, more columns than a dimension of the grid has workgroups for',
  async (t) => {
    const cache = new LaunchCache(t.gpu);
    t.defer(() => cache.destroy());
    const size = { inputs: 8, outputs: 4 * 65535 + 9, rows: 1 };
    const { actual, expected } = await runLinear(t, cache, matvecKernel, { dtype: 'f16', normalized: true }, size, random(1));
    expectClose(actual, expected, { atol: 1e-5, rtol: 1e-4 });
  },
  { devices: 'default' },
);
