/** Traces: what they hold, and that tracing changes no result. */
import { type ChromeTrace, gpuFromDevice, LaunchCache, type TraceEvent, Tracer } from '../../src/index.ts';
import { expect, expectEqual, readFloats, type SpecContext, spec, uploadBuffer } from '../harness/harness.ts';
import { goldenPrompts, loadEngine } from './shipped.ts';
import { mixKernel, setKernel } from './tiny.ts';

const timed = { requires: ['timestamp-query'] };

/** What a file of the trace holds: text and back. */
function written(tracer: Tracer): ChromeTrace {
  return JSON.parse(JSON.stringify(tracer)) as ChromeTrace;
}

const spansOf = ({ traceEvents }: ChromeTrace, category: string) => traceEvents.filter(({ cat }) => cat === category);
const namesOf = (events: readonly TraceEvent[]) => events.map(({ name }) => name);

/** On each track, two spans either nest or do not touch. */
function expectNested(trace: ChromeTrace): void {
  const spans = trace.traceEvents.filter(({ ph }) => ph === 'X');
  const tolerance = 1e-3; // of a microsecond: times are differences of floats
  for (const track of new Set(spans.map(({ tid }) => tid))) {
    const open: number[] = [];
    const sorted = spans.filter(({ tid }) => tid === track).toSorted((a, b) => a.ts! - b.ts! || b.dur! - a.dur!);
    for (const { name, ts = Number.NaN, dur = Number.NaN } of sorted) {
      expect(ts >= 0 && dur >= 0, `${name} begins at ${ts} and lasts ${dur}`);
      while (open.length > 0 && open.at(-1)! <= ts + tolerance) open.pop();
      const limit = open.at(-1) ?? Number.POSITIVE_INFINITY;
      expect(ts + dur <= limit + tolerance, `${name} on track ${track} ends at ${ts + dur}, what it is in at ${limit}`);
      open.push(ts + dur);
    }
  }
}

/** Six launches of two kernels in two submits. */
async function traceLaunches(t: SpecContext, gpu = t.gpu): Promise<ChromeTrace> {
  const tracer = new Tracer(gpu);
  const cache = new LaunchCache(gpu);
  t.defer(() => cache.destroy());
  const input = uploadBuffer(t, new Float32Array(8).fill(2), undefined, gpu);
  const output = uploadBuffer(t, new Float32Array(8), undefined, gpu);
  const set = await cache.prepare(setKernel, { output, place: 0, value: 0, count: 1 });
  const mix = await cache.prepare(mixKernel, { input, output, angle: 0, offset: 0, place: 0 });
  for (const first of [0, 3]) {
    const step = tracer.begin('step');
    const encoder = tracer.record((pass) => {
      set.record(pass, { output, place: first, value: first + 1, count: 2 });
      set.record(pass, { output, place: first, value: 0, count: 0 });
      mix.record(pass, { input, output, angle: 0, offset: first, place: first });
      set.record(pass, { output, place: first + 2, value: 9, count: 1 });
    });
    cache.submit([encoder.finish()]);
    tracer.submitted();
    step.end();
  }
  expectEqual(await readFloats(gpu, output), Float32Array.of(0, 1, 9, 3, 4, 9, 0, 0));
  await tracer.finish();
  return written(tracer);
}

spec(
  'has a span on the GPU for each launch, named as the kernel',
  async (t) => {
    const trace = await traceLaunches(t);
    expectNested(trace);
    const launches = ['set', 'mix', 'set', 'set', 'mix', 'set'];
    expectEqual([namesOf(spansOf(trace, 'launch')), namesOf(spansOf(trace, 'gpu'))], [launches, launches]);
    expectEqual(namesOf(spansOf(trace, 'host')), ['step', 'record', 'trace', 'trace', 'step', 'record', 'trace', 'trace']);
    const [steps, onGpu] = [spansOf(trace, 'host').filter(({ name }) => name === 'step'), spansOf(trace, 'gpu')];
    // Not before: a page's clock stands still for up to 0.1 ms. A nanosecond is for rounding.
    for (const [i, { ts }] of steps.entries()) expect(onGpu[3 * i].ts! >= ts! - 0.001, `launch ${3 * i} runs before its step began`);
    expectEqual(trace.otherData['GPU timestamps'], 'yes');
  },
  timed,
);

spec(
  'has host spans alone on a device without timestamps',
  async (t) => {
    const device = await (await t.api.requestAdapter())!.requestDevice();
    const gpu = gpuFromDevice(device);
    t.defer(() => gpu.destroy());
    const trace = await traceLaunches(t, gpu);
    expectNested(trace);
    expectEqual([spansOf(trace, 'launch').length, spansOf(trace, 'gpu').length], [6, 0]);
    expectEqual(trace.otherData['GPU timestamps'], 'no: the device lacks timestamp-query');
  },
  { devices: 'granted' },
);

for (const launchCache of ['on', 'off'] as const) {
  spec(
    `a traced generation writes the same tokens, launch cache ${launchCache}`,
    async (t) => {
      const greedy = { temperature: 0, maxTokens: 3, runAhead: 2 };
      const [golden] = await goldenPrompts(t);
      const tracer = new Tracer(t.gpu);
      const engine = await loadEngine(t, { launchCache, runAhead: 2, trace: tracer });
      const before = engine.launchStats().launches;
      const { ids } = await engine.generate(golden.ids, greedy).result;
      expectEqual([...ids], golden.greedy_ids.slice(0, 3), 'tokens');
      await tracer.finish();
      const trace = written(tracer);
      expectNested(trace);
      const launches = engine.launchStats().launches - before;
      expectEqual([spansOf(trace, 'gpu').length, spansOf(trace, 'launch').length], [launches, launches], 'launches');
      expectEqual(namesOf(spansOf(trace, 'gpu')), namesOf(spansOf(trace, 'launch')), 'kernels');
      const host = namesOf(spansOf(trace, 'host'));
      const count = (name: string) => host.filter((one) => one === name).length;
      expectEqual(['prefill', 'decode', 'plan', 'record', 'submit', 'wait'].map(count), [1, 2, 3, 3, 3, 3], 'host spans');
    },
    { ...timed, devices: 'granted', full: launchCache === 'off' },
  );
}

spec('a span ends with the one that it is in, and spans that nobody ends last until now', async (t) => {
  const tracer = new Tracer(t.gpu);
  const outer = tracer.begin('outer');
  const inner = tracer.begin('inner');
  outer.end();
  inner.end();
  tracer.begin('open');
  const trace = written(tracer);
  expectNested(trace);
  expectEqual(namesOf(spansOf(trace, 'host')), ['outer', 'inner', 'open']);
});
