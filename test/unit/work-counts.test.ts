/** The work of steps, counted without a GPU: more of it fails here, on any machine. */
import { readFile } from 'node:fs/promises';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { filesFrom } from '../../src/engine/index.ts';
import type { KvDtype, LaunchEvent } from '../../src/index.ts';
import { changesOfWork, expectWork, type Work } from '../gpu/work.ts';
import { type AttentionWorkOptions, all, attentionWork, type Lengths, ShippedWork, shippedSteps } from '../gpu/work-cases.ts';
import { fakeGpu, fakePass, largeGpu, matrixGpu } from './fake-gpu.ts';

afterAll(() => vi.unstubAllGlobals());

it('steps of the shipped model are the work that they were', async () => {
  const shipped = await ShippedWork.open(fakeGpu().gpu, shippedFiles());
  for (const one of shippedSteps) expectWork(one.name, shipped.step(one, fakePass), one.work);
});

const shippedFiles = () => filesFrom('demo/model', async (name) => new Uint8Array(await readFile(`demo/model/${name}`)));
const promptOf128 = { lengths: all(1, 128, 128) };

describe('where the device has matrices', () => {
  it('prompts of the shipped model are the work that they were', async () => {
    const shipped = await ShippedWork.open(matrixGpu().gpu, shippedFiles(), { subgroupMatrices: true });
    expectWork('prefill of 128, by matrices', shipped.step(promptOf128, fakePass), {
      writes: 1,
      bytesWritten: 5_180,
      kernels: {
        'update block table': { grids: { '1 1 1': 1 }, bound: 32_784 },
        embed: { grids: { '1 128 1': 1 }, bound: 2_816_096 },
        'matmul by matrices': { grids: { '4 24 1': 6, '4 10 1': 12, '4 48 1': 6 }, bound: 27_483_648 },
        append: { grids: { '32 1 1': 6 }, bound: 31_740_192 },
        prefill: { grids: { '16 2 1': 6 }, bound: 34_413_408 },
        matvec: { grids: { '1 1024 1': 1 }, bound: 2_963_776 },
        sample: { grids: { '1 1 1': 1 }, bound: 161_984 },
      },
    });
  });

  it('a model that is told to do without has no kernel by them', async () => {
    const shipped = await ShippedWork.open(matrixGpu().gpu, shippedFiles(), { subgroupMatrices: false });
    const { kernels } = shipped.step(promptOf128, fakePass);
    expect(Object.keys(kernels).filter((name) => name.includes('matrices'))).toEqual([]);
    expect(Object.keys(kernels)).toContain('matvec');
  });

  it('a model whose kernel by them does not compile does without, and tells it once', async () => {
    const events: LaunchEvent[] = [];
    const shipped = await ShippedWork.open(matrixGpu('matmul by matrices').gpu, shippedFiles(), {
      subgroupMatrices: true,
      onEvent: (event) => events.push(event),
    });
    const { kernels } = shipped.step(promptOf128, fakePass);
    expect(Object.keys(kernels)).toContain('matvec');
    expect(events.map((event) => event.type === 'fallback' && event.kernel)).toEqual(['matmul by matrices']);
  });
});

interface Layer {
  readonly name: string;
  readonly lengths: Lengths;
  readonly dtype?: KvDtype;
  readonly options?: AttentionWorkOptions;
  readonly work: Work;
}

const layers: readonly Layer[] = [
  {
    name: 'decode 8 x 4096',
    lengths: all(8, 1, 4096),
    work: {
      writes: 1,
      bytesWritten: 1_968,
      kernels: {
        append: { grids: { '16 1 1': 1 }, bound: 134_407_024 },
        decode: { grids: { '8 64 1': 1 }, bound: 148_282_000 },
        merge: { grids: { '8 32 1': 1 }, bound: 13_858_128 },
      },
    },
  },
  {
    name: 'decode 8 x 4096, int8',
    lengths: all(8, 1, 4096),
    dtype: 'int8',
    work: {
      writes: 1,
      bytesWritten: 1_968,
      kernels: {
        append: { grids: { '16 1 1': 1 }, bound: 69_363_568 },
        decode: { grids: { '8 64 1': 1 }, bound: 83_238_544 },
        merge: { grids: { '8 32 1': 1 }, bound: 13_858_128 },
      },
    },
  },
  {
    name: 'decode 8 x 4096, f32',
    lengths: all(8, 1, 4096),
    dtype: 'f32',
    work: {
      writes: 1,
      bytesWritten: 1_968,
      kernels: {
        append: { grids: { '16 1 1': 1 }, bound: 268_690_288 },
        decode: { grids: { '8 64 1': 1 }, bound: 282_565_264 },
        merge: { grids: { '8 32 1': 1 }, bound: 13_858_128 },
      },
    },
  },
  {
    name: 'decode 8 x 4096, deterministic',
    lengths: all(8, 1, 4096),
    options: { deterministic: true },
    work: {
      writes: 1,
      bytesWritten: 1_200,
      kernels: {
        append: { grids: { '16 1 1': 1 }, bound: 134_370_352 },
        decode: { grids: { '8 32 1': 1 }, bound: 135_336_784 },
        merge: { grids: { '8 32 1': 1 }, bound: 912_912 },
      },
    },
  },
  {
    name: 'decode 8 x 4096, the first half shared',
    lengths: all(8, 1, 4096),
    options: { shared: 2048 },
    work: {
      writes: 1,
      bytesWritten: 1_224,
      kernels: {
        append: { grids: { '16 1 1': 1 }, bound: 134_407_024 },
        decode: { grids: { '8 32 1': 1 }, bound: 148_282_000 },
        prefill: { grids: { '1 8 1': 1 }, bound: 148_282_000 },
        merge: { grids: { '8 32 1': 1 }, bound: 13_858_128 },
      },
    },
  },
  {
    name: 'decode 1 x 65536',
    lengths: all(1, 1, 65536),
    work: {
      writes: 1,
      bytesWritten: 1_660,
      kernels: {
        append: { grids: { '2 1 1': 1 }, bound: 268_624_324 },
        decode: { grids: { '8 64 1': 1 }, bound: 286_051_044 },
        merge: { grids: { '1 32 1': 1 }, bound: 17_500_580 },
      },
    },
  },
  {
    name: 'decode 64 x 4096',
    lengths: all(64, 1, 4096),
    work: {
      writes: 1,
      bytesWritten: 3_664,
      kernels: {
        append: { grids: { '128 1 1': 1 }, bound: 1_074_526_720 },
        decode: { grids: { '8 64 1': 1 }, bound: 1_095_664_416 },
      },
    },
  },
  {
    name: 'prefill of 512',
    lengths: all(1, 512, 512),
    work: {
      writes: 1,
      bytesWritten: 18_256,
      kernels: {
        'update block table': { grids: { '1 1 1': 1 }, bound: 39_664 },
        append: { grids: { '1024 1 1': 1 }, bound: 6_396_448 },
        prefill: { grids: { '64 8 1': 1 }, bound: 20_365_376 },
      },
    },
  },
  {
    name: 'prefill of 512 on 4096',
    lengths: all(1, 512, 4608),
    work: {
      writes: 1,
      bytesWritten: 18_256,
      kernels: {
        'update block table': { grids: { '1 1 1': 1 }, bound: 73_456 },
        append: { grids: { '1024 1 1': 1 }, bound: 23_205_408 },
        prefill: { grids: { '64 8 1': 1 }, bound: 46_908_480 },
      },
    },
  },
  {
    name: '4 prefills of 512 and 60 decodes at 2048',
    lengths: [...all(4, 512, 512), ...all(60, 1, 2048)],
    work: {
      writes: 1,
      bytesWritten: 76_144,
      kernels: {
        'update block table': { grids: { '2 1 1': 1 }, bound: 288_448 },
        append: { grids: { '4216 1 1': 1 }, bound: 529_294_576 },
        decode: { grids: { '8 60 1': 1 }, bound: 596_306_960 },
        prefill: { grids: { '256 8 1': 1 }, bound: 596_306_960 },
      },
    },
  },
];

const layersByMatrices: readonly Layer[] = [
  {
    name: 'decode 8 x 4096, groups of 8',
    lengths: all(8, 1, 4096),
    options: { numHeads: 64 },
    work: {
      writes: 1,
      bytesWritten: 1_968,
      kernels: {
        append: { grids: { '16 1 1': 1 }, bound: 134_407_024 },
        'decode by matrices': { grids: { '8 64 1': 1 }, bound: 162_213_264 },
        merge: { grids: { '8 64 1': 1 }, bound: 27_658_064 },
      },
    },
  },
  {
    name: 'decode 8 x 4096, int8',
    lengths: all(8, 1, 4096),
    dtype: 'int8',
    work: {
      writes: 1,
      bytesWritten: 1_968,
      kernels: {
        append: { grids: { '16 1 1': 1 }, bound: 69_363_568 },
        'decode in f16, keys as bytes': { grids: { '8 64 1': 1 }, bound: 83_238_544 },
        merge: { grids: { '8 32 1': 1 }, bound: 13_858_128 },
      },
    },
  },
  {
    name: 'prefill of 512',
    lengths: all(1, 512, 512),
    work: {
      writes: 1,
      bytesWritten: 17_488,
      kernels: {
        'update block table': { grids: { '1 1 1': 1 }, bound: 39_664 },
        append: { grids: { '1024 1 1': 1 }, bound: 6_396_448 },
        'prefill by matrices': { grids: { '32 8 1': 1 }, bound: 20_365_376 },
      },
    },
  },
  {
    name: '4 prefills of 512 and 60 decodes at 2048',
    lengths: [...all(4, 512, 512), ...all(60, 1, 2048)],
    work: {
      writes: 1,
      bytesWritten: 73_072,
      kernels: {
        'update block table': { grids: { '2 1 1': 1 }, bound: 288_448 },
        append: { grids: { '4216 1 1': 1 }, bound: 529_294_576 },
        decode: { grids: { '8 60 1': 1 }, bound: 596_306_960 },
        'prefill by matrices': { grids: { '128 8 1': 1 }, bound: 596_306_960 },
      },
    },
  },
];

describe('a layer of attention by subgroups and matrices is the work that it was', () => {
  it.each(layersByMatrices)('$name', async ({ name, lengths, dtype = 'f16', options, work }) => {
    expectWork(name, await attentionWork(matrixGpu().gpu, lengths, dtype, fakePass, options), work);
  });
});

describe('a layer of attention is the work that it was', () => {
  it.each(layers)('$name', async ({ name, lengths, dtype = 'f16', options, work }) => {
    expectWork(name, await attentionWork(largeGpu().gpu, lengths, dtype, fakePass, options), work);
  });

  it('whose writes are bounded, however long the context', async () => {
    // The step, a new block, and 24 bytes for each part of the row, of which there are 64 at most.
    for (const context of [16385, 65537, 262145])
      expect((await attentionWork(largeGpu().gpu, all(1, 1, context), 'f16', fakePass)).bytesWritten).toBeLessThanOrEqual(1668);
  });
});

describe('a change of work', () => {
  const work: Work = {
    writes: 1,
    bytesWritten: 100,
    kernels: { decode: { grids: { '4 8 1': 6 }, bound: 3000 }, merge: { grids: { '1 8 1': 6 }, bound: 600 } },
  };

  it('is none where nothing changed', () => {
    expect(changesOfWork(work, structuredClone(work))).toEqual([]);
  });

  it('names the kernel, both values and their ratio', () => {
    const more: Work = {
      writes: 2,
      bytesWritten: 100,
      kernels: { decode: { grids: { '6 8 1': 3, '4 8 1': 3 }, bound: 4500 }, append: { grids: { '2 1 1': 1 }, bound: 7 } },
    };
    expect(changesOfWork(more, work)).toEqual([
      'queue writes: 2 instead of 1 (x 2.000)',
      'decode: workgroups: 240 instead of 192 (x 1.250); 3 of 4 x 8 x 1, 3 of 6 x 8 x 1 instead of 6 of 4 x 8 x 1',
      'decode: bytes bound: 4,500 instead of 3,000 (x 1.500)',
      'merge: launches: 0 instead of 6 (gone)',
      'merge: workgroups: 0 instead of 48 (gone); none instead of 6 of 1 x 8 x 1',
      'merge: bytes bound: 0 instead of 600 (gone)',
      'append: launches: 1 instead of 0 (new)',
      'append: workgroups: 2 instead of 0 (new); 1 of 2 x 1 x 1 instead of none',
      'append: bytes bound: 7 instead of 0 (new)',
    ]);
    const grids = { ...work, kernels: { ...work.kernels, decode: { grids: { '8 4 1': 6 }, bound: 3000 } } };
    expect(changesOfWork(grids, work)).toEqual(['decode: other grids; 6 of 8 x 4 x 1 instead of 6 of 4 x 8 x 1']);
  });

  it('fails with what to expect instead', () => {
    expectWork('a step', work, work);
    expect(() => expectWork('a step', work, { ...work, bytesWritten: 50 })).toThrow(
      /a step: the work of a step changed\.\n {2}bytes written: 100 instead of 50 \(x 2\.000\)\nIf it is meant to.*\n\{\n {2}writes: 1,/,
    );
  });
});
