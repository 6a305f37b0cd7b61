import { expect, it } from 'vitest';
import { drawStep, medianStep } from '../../scripts/trace-drawing.mjs';
import type { ChromeTrace, TraceEvent } from '../../src/index.ts';

/** Three decode steps that take 10, 30 and 20 us to record, a launch each. */
function steps(): ChromeTrace {
  const span = (name: string, cat: string, ts: number, dur: number): TraceEvent => {
    return { name, ph: 'X', pid: 1, tid: cat === 'gpu' ? 2 : 1, cat, ts, dur };
  };
  const traceEvents = [10, 30, 20].flatMap((record, i) => [
    span('decode', 'host', 100 * i, 50),
    span('plan', 'host', 100 * i, 5),
    span('record', 'host', 100 * i + 5, record),
    span('submit', 'host', 100 * i + 35, 10),
    span('a < "b"', 'launch', 100 * i + 6, 3),
    span('a < "b"', 'gpu', 100 * i + 40, 3),
    span('wait', 'host', 100 * i + 50, 40),
  ]);
  const name: TraceEvent = { name: 'thread_name', ph: 'M', pid: 1, tid: 1, args: { name: 'host' } };
  return { displayTimeUnit: 'ms', traceEvents: [name, ...traceEvents], otherData: { adapter: 'A & B' } };
}

it('takes the step of median recording time, from its begin on', () => {
  const { record, hostEnd, spans } = medianStep(steps());
  expect([record, hostEnd]).toEqual([20, 45]);
  expect(spans.find(({ name, begin }) => name === 'record' && begin > 0)).toMatchObject({ begin: 5, end: 25 });
});

it('draws what is within the time shown, and escapes names', () => {
  const svg = drawStep(medianStep(steps()), 'launch cache on', 48);
  expect(svg).toContain('recording a decode step takes 20 µs (median). A &amp; B');
  expect(svg.match(/<rect/g)).toHaveLength(6); // decode, plan, record, submit, and the launch twice
  expect(svg).toContain('<title>a &lt; &quot;b&quot;: 3 µs</title>');
  expect(svg).not.toMatch(/NaN|undefined/);
});

it('says when there is nothing to draw', () => {
  expect(() => medianStep({ ...steps(), traceEvents: [] })).toThrow('no decode step');
});
