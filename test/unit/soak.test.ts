import { createHandler } from 'pagewise/serve';
import { describe, expect, test } from 'vitest';
import { type Send, sendThrough, soak } from '../../bench/serving/soak.ts';
import { readServingOptions } from '../../scripts/serving-options.mjs';
import { fakeEngine } from './fake-engine.ts';

const serving = { ...readServingOptions({}), minutes: 0.005, streams: 8 };
const wait = (milliseconds: number) => new Promise<void>((resolve) => setTimeout(resolve, milliseconds));

/** What comes of an event of a stream; `at` counts them. */
type Change = (event: string, at: number) => readonly string[];

/** Soaks a server each of whose streams goes through a change of its own. */
async function soakThrough(makeChange: () => Change = () => (event) => [event], blocks = 0) {
  const engine = fakeEngine();
  const stats = () => ({ ...engine.stats(), running: engine.running(), waiting: 0, kvUsage: engine.running() > 0 ? 0.5 : blocks });
  const plain = sendThrough(createHandler({ ...engine, stats }, { modelName: 'm' }));
  const send: Send = async (path, body, signal) => {
    const response = await plain(path, body, signal);
    if (!body || !('stream' in body) || !response.body) return response;
    let at = 0;
    const change = makeChange();
    const changed = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
      transform(piece, controller) {
        for (const event of change(new TextDecoder().decode(piece), at++)) controller.enqueue(new TextEncoder().encode(event));
      },
    });
    return new Response(response.body.pipeThrough(changed), response);
  };
  const result = await soak(send, {}, { serving }, wait);
  return { ...result, running: engine.running() };
}

describe('a soak', () => {
  test('finds nothing where nothing is wrong, and leaves nothing running', async () => {
    const { completed, left, tokens, failed, problems, running } = await soakThrough();
    expect([failed, problems, running]).toEqual([0, [], 0]);
    expect(completed).toBeGreaterThan(5);
    expect(left).toBeGreaterThan(0);
    expect(tokens).toBeGreaterThan(100);
  });

  test.each([
    ['a lost piece', (event: string, at: number) => (at === 2 ? [] : [event]), /instead of|tokens came/],
    ['a doubled piece', (event: string, at: number) => (at === 2 ? [event, event] : [event]), /instead of|tokens came/],
    ['another text of the same tokens', (event: string) => [event.replace('"text":"c"', '"text":"x"')], /instead of/],
    ['an end that does not come', (event: string) => (event.includes('[DONE]') ? [] : [event]), /broke off/],
    ['an error', (event: string, at: number) => (at === 1 ? ['data: {"error":{"message":"lost device"}}\n\n'] : [event]), /lost device/],
  ])('finds %s', async (_, change, problem) => {
    const { failed, problems } = await soakThrough(() => change);
    expect(failed).toBeGreaterThan(0);
    expect(problems.length).toBeLessThanOrEqual(6);
    expect(problems[0]).toMatch(problem);
  });

  test('finds pieces in another order', async () => {
    const { problems } = await soakThrough(() => {
      let held = '';
      return (event, at) => {
        if (at !== 1) return at === 2 ? [event, held] : [event];
        held = event;
        return [];
      };
    });
    expect(problems[0]).toMatch(/instead of/);
  });

  test('finds blocks that are not given back', { timeout: 20_000 }, async () => {
    const { problems } = await soakThrough(undefined, 0.03);
    expect(problems).toEqual(['3.0 % of the KV blocks are in use though all clients have gone']);
  });
});
