import type { HarnessEvent, RunOptions } from '../harness/events.ts';
import { emptyBuffer, expect, expectEqual, random, type SpecContext, type SpecOptions, spec } from '../harness/harness.ts';
import { runSpecs } from '../harness/runner.ts';

spec(
  'reports what a spec throws, and goes on',
  async (t) => {
    const events = await runInner(t, [
      ['bad', () => expect(false, 'as meant')],
      ['good', () => {}],
    ]);
    expectEqual(outcomes(events), ['fail inner / bad [granted]', 'pass inner / good [granted]']);
    expect(messageOf(events).includes('as meant'), messageOf(events));
    const { event, ...totals } = events.at(-1)!;
    expectEqual({ event, ...totals }, { event: 'end', passed: 1, failed: 1, skipped: 0 });
  },
  { devices: 'granted' },
);

spec(
  'fails a spec on an error that nobody caught, on shared and on own devices',
  async (t) => {
    const stray = (device: GPUDevice) =>
      device.createBuffer({ size: 4, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.STORAGE }).destroy();
    const events = await runInner(t, [
      ['shared', (inner) => stray(inner.gpu.device)],
      ['own', async (inner) => stray((await inner.openGpu()).device)],
      ['clean', (inner) => void emptyBuffer(inner, 16)],
    ]);
    expectEqual(outcomes(events), ['fail inner / shared [granted]', 'fail inner / own [granted]', 'pass inner / clean [granted]']);
    expect(/stray validation error/.test(messageOf(events)), messageOf(events));
  },
  { devices: 'granted' },
);

spec(
  'lets a spec catch the error that it provokes',
  async (t) => {
    const events = await runInner(t, [
      [
        'provokes',
        async ({ gpu }) => {
          gpu.device.pushErrorScope('validation');
          gpu.device.createBuffer({ size: 4, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.STORAGE });
          expect((await gpu.device.popErrorScope()) !== null, 'no error');
        },
      ],
    ]);
    expectEqual(outcomes(events), ['pass inner / provokes [granted]']);
  },
  { devices: 'granted' },
);

spec(
  'skips for a missing feature, and runs long specs only when asked',
  async (t) => {
    const events = await runInner(t, [
      ['needs', () => {}, { requires: ['timestamp-query-of-the-future'] }],
      ['long', () => {}, { full: true }],
    ]);
    expectEqual(outcomes(events), ['skip inner / needs [granted]']);
  },
  { devices: 'granted' },
);

spec(
  'once, runs a spec on the device with default limits, and none that is independent of the host unless all are asked for',
  async (t) => {
    const specs: Parameters<typeof runInner>[1] = [
      ['both', () => {}],
      ['one', () => {}, { devices: 'granted' }],
      ['library', () => {}, { hostIndependent: true, devices: 'default' }],
    ];
    const some = ['pass inner / both [default]', 'pass inner / one [granted]'];
    const all = [...some, 'pass inner / library [default]'];
    expectEqual(outcomes(await runInner(t, specs, { once: true })), some, 'once');
    expectEqual(outcomes(await runInner(t, specs, { once: true, full: true })), all, 'once, and all');
    expectEqual(outcomes(await runInner(t, specs, {})), ['pass inner / both [granted]', ...all], 'whole');
  },
  { devices: 'granted' },
);

spec(
  'gives up a spec after its time, with its device',
  async (t) => {
    const events = await runInner(t, [
      ['stuck', () => new Promise(() => {}), { timeout: 20 }],
      ['next', (inner) => expectEqual(inner.gpu.loss, undefined)],
    ]);
    expectEqual(outcomes(events), ['fail inner / stuck [granted]', 'pass inner / next [granted]']);
    expect(/not finished after 20 ms/.test(messageOf(events)), messageOf(events));
  },
  { devices: 'granted' },
);

spec(
  'cleans up in reverse order, and closes own devices',
  async (t) => {
    const order: number[] = [];
    const own: GPUDevice[] = [];
    await runInner(t, [
      [
        'defers',
        async (inner) => {
          inner.defer(() => void order.push(1));
          inner.defer(() => void order.push(2));
          own.push((await inner.openGpu()).device);
        },
      ],
    ]);
    expectEqual(order, [2, 1]);
    expectEqual((await own[0].lost).reason, 'destroyed');
  },
  { devices: 'granted' },
);

spec(
  'draws the same random numbers everywhere',
  () => {
    const draw = random(7);
    expectEqual([draw.integer(1000), draw.integer(1000), draw.integer(1000)], [11, 61, 976]);
    expectEqual([...draw.permutation(8)].sort(), [0, 1, 2, 3, 4, 5, 6, 7]);
  },
  { devices: 'granted' },
);

/** Runs specs of our own, on devices with granted limits unless told otherwise, inside a spec. */
async function runInner(
  t: SpecContext,
  specs: readonly (readonly [name: string, run: (t: SpecContext) => unknown, options?: SpecOptions])[],
  options: RunOptions = { variant: 'granted' },
): Promise<HarnessEvent[]> {
  const events: HarnessEvent[] = [];
  const host = { name: t.host, runtime: 'inner', api: t.api, readFile: t.readFile, emit: (event: HarnessEvent) => void events.push(event) };
  const declare = async () => {
    for (const [name, run, more] of specs) spec(name, async (inner) => void (await run(inner)), more);
  };
  await runSpecs(host, { inner: declare }, options);
  return events;
}

function outcomes(events: readonly HarnessEvent[]): string[] {
  return events.flatMap((event) =>
    event.event === 'pass' || event.event === 'fail' || event.event === 'skip' ? [`${event.event} ${event.name}`] : [],
  );
}

function messageOf(events: readonly HarnessEvent[]): string {
  return events.find((event) => event.event === 'fail')?.message ?? 'no failure';
}
