import { afterEach, expect, it, vi } from 'vitest';
import { WebGpuUnavailableError } from '../../src/errors.ts';
import { openGpu } from '../../src/gpu.ts';

afterEach(() => vi.unstubAllGlobals());

/** An API whose adapter lists some features and grants some; and what it was asked for. */
function fakeApi(listed: readonly string[], granted: readonly string[]) {
  const requests: (readonly string[])[] = [];
  const info = { subgroupMinSize: 32, subgroupMaxSize: 32 };
  const adapter = {
    ...{ features: new Set(listed), limits: {}, info },
    async requestDevice({ requiredFeatures }: { requiredFeatures: readonly string[] }) {
      requests.push(requiredFeatures);
      const missing = requiredFeatures.find((name) => !granted.includes(name));
      if (missing) throw new TypeError(`${missing} is not granted`);
      return { features: new Set(requiredFeatures), limits: {}, lost: new Promise(() => {}) };
    },
  };
  return { gpu: { requestAdapter: async () => adapter } as unknown as GPU, requests };
}

it.each([
  ['Deno, which grants subgroups without listing them', 'Deno/2.9.5', [], ['subgroups'], [['subgroups']], 32, 2],
  ['Deno on a GPU without', 'Deno/2.9.5', ['shader-f16'], ['shader-f16'], [['shader-f16', 'subgroups'], ['shader-f16']], 0, 2],
  ['a Deno that lists them', 'Deno/3.0.0', ['subgroups'], ['subgroups'], [['subgroups']], 32, 0],
  ['other hosts, which are asked for what they list', 'Mozilla/5.0 Firefox/150.0', [], ['subgroups'], [[]], 0, 0],
] as const)('opens a device of %s', async (_, userAgent, listed, granted, expected, subgroupMinSize, unknown) => {
  vi.stubGlobal('navigator', { userAgent });
  const { gpu: api, requests } = fakeApi(listed, granted);
  const gpu = await openGpu({ gpu: api });
  expect(requests).toEqual(expected);
  expect([gpu.features.subgroups, gpu.subgroupMinSize, gpu.unknownDirectives.size]).toEqual([
    subgroupMinSize > 0,
    subgroupMinSize,
    unknown,
  ]);
});

it('says so where a device is refused with what is listed, too', async () => {
  vi.stubGlobal('navigator', { userAgent: 'Deno/2.9.5' });
  await expect(openGpu({ gpu: fakeApi(['shader-f16'], []).gpu })).rejects.toThrow(WebGpuUnavailableError);
});
