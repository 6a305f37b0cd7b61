import { afterEach, describe, expect, it, vi } from 'vitest';
import { ReadbackRing } from '../../src/engine/readback.ts';
import type { Gpu } from '../../src/gpu.ts';

afterEach(() => vi.unstubAllGlobals());

/** A GPU whose staging buffers are mapped when the test says so. */
function open(depth: number) {
  const maps: { resolve: () => void; reject: (error: Error) => void }[] = [];
  let made = 0;
  const createBuffer = () => {
    const content = Uint32Array.of(100 + made++, 0, 0, 0);
    return {
      mapAsync: () => new Promise<void>((resolve, reject) => maps.push({ resolve, reject })),
      ...{ getMappedRange: () => content.buffer, unmap() {}, destroy() {} },
    };
  };
  vi.stubGlobal('GPUBufferUsage', { MAP_READ: 1, COPY_DST: 8 });
  vi.stubGlobal('GPUMapMode', { READ: 1 });
  const ring = new ReadbackRing({ device: { createBuffer } } as unknown as Gpu, depth, 1);
  const encoder = { copyBufferToBuffer() {} } as unknown as GPUCommandEncoder;
  const results = { buffer: {} as GPUBuffer, words: 2, logprobs: [undefined] };
  const tokens: (number | string)[] = [];
  /** Asks for a step's results; `tokens` has them, or what went wrong, when they are there. */
  const read = () => {
    const reading = ring.record(encoder, results)();
    reading.then(
      ([{ token }]) => tokens.push(token),
      (error: Error) => tokens.push(error.message),
    );
    return reading;
  };
  return { ring, maps, tokens, read };
}

const settled = () => new Promise((resolve) => setTimeout(resolve));

describe('a ring of readbacks', () => {
  it('maps each result at once, unless it is told otherwise', () => {
    const { maps, read } = open(3);
    for (let i = 0; i < 3; i++) void read();
    expect(maps.length).toBe(3);
    expect(read).toThrow(RangeError);
  });

  it('maps the first at once, and others when there are enough of them', async () => {
    const { ring, maps, tokens, read } = open(8);
    ring.atOnce = 3;
    for (const mapped of [1, 1, 1, 4, 4]) {
      void read();
      expect(maps.length).toBe(mapped);
    }
    for (const { resolve } of maps.slice(0, 3)) resolve();
    await settled();
    expect([tokens.length, maps.length]).toEqual([3, 4]); // the fifth still waits for a sixth, as the fourth is on its way
    void read();
    void read();
    expect(maps.length).toBe(7);
  });

  it('maps what waits when nothing is on its way any more, or when it is told to', async () => {
    const { ring, maps, tokens, read } = open(4);
    ring.atOnce = 3;
    void read();
    void read();
    maps[0].resolve();
    await settled();
    expect([tokens.length, maps.length]).toEqual([1, 2]);
    void read();
    expect(maps.length).toBe(2);
    ring.flush();
    expect(maps.length).toBe(3);
  });

  it('rejects what waits with what is on its way, as a lost device does, or when it is destroyed', async () => {
    const { ring, maps, tokens, read } = open(4);
    ring.atOnce = 4;
    void read().catch(() => {});
    void read().catch(() => {});
    maps[0].reject(new Error('lost'));
    await settled();
    maps[1].reject(new Error('lost, too'));
    await settled();
    expect(tokens).toEqual(['lost', 'lost, too']);
    void read().catch(() => {});
    void read().catch(() => {});
    ring.destroy();
    await settled();
    expect([tokens[2], maps.length]).toEqual(['The readback was given up.', 3]);
  });
});
