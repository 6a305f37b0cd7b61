/** Where time goes, as a Chrome trace: host spans, and on the GPU one span per launch. Open it in https://ui.perfetto.dev. */
import type { Gpu } from '../gpu.ts';
import { type GpuTime, recordTimed } from './timestamps.ts';
import { TracedPass } from './traced-pass.ts';

/** An event of the Trace Event Format: a span (`X`), or the name of a track (`M`). Times are microseconds. */
export interface TraceEvent {
  readonly name: string;
  readonly ph: 'X' | 'M';
  readonly pid: number;
  readonly tid: number;
  readonly cat?: string;
  readonly ts?: number;
  readonly dur?: number;
  readonly args?: Readonly<Record<string, unknown>>;
}

export interface ChromeTrace {
  readonly displayTimeUnit: 'ms';
  readonly traceEvents: readonly TraceEvent[];
  readonly otherData: Readonly<Record<string, string>>;
}

/** A host span that is open. */
export interface OpenSpan {
  /** Ends the span, and those begun in it that are still open. */
  end(): void;
}

interface Span {
  readonly name: string;
  readonly begin: number;
  end: number;
  readonly depth: number;
}

/** Launches of one submit: when it was ready, and when each ran by the GPU's clock. */
interface TimedSubmit {
  readonly ready: number;
  readonly kernels: readonly string[];
  readonly times: readonly GpuTime[];
}

const hostTrack = 1;
const gpuTrack = 2;

/**
 * Collects spans; `finish`, then `toJSON`, when all is done. One device, one tracer.
 *
 * Host spans are what the program would spend without a tracer: launches are recorded into an ordinary pass, which is thrown away, and then
 * again, one pass each, between timestamps. The second recording has a span of its own, `trace`. GPU times have no known relation to the
 * host's clock; they are moved by one constant, the smallest with which no launch runs before it was recorded.
 */
export class Tracer {
  readonly #gpu: Gpu;
  readonly #spans: Span[] = [];
  readonly #open: Span[] = [];
  readonly #launches: { readonly kernel: string; readonly begin: number; readonly end: number }[] = [];
  readonly #submits: TimedSubmit[] = [];
  #unsubmitted: { readonly ready: number; readonly kernels: readonly string[]; readonly read: () => Promise<GpuTime[]> } | undefined;
  readonly #reads: Promise<void>[] = [];

  constructor(gpu: Gpu) {
    this.#gpu = gpu;
  }

  /** Opens a host span inside those that are open. */
  begin(name: string): OpenSpan {
    const span: Span = { name, begin: performance.now(), end: Number.NaN, depth: this.#open.length };
    this.#spans.push(span);
    this.#open.push(span);
    return {
      end: () => {
        if (!this.#open.includes(span)) return;
        const now = performance.now();
        while (this.#open.length > span.depth) this.#open.pop()!.end = now;
      },
    };
  }

  /**
   * Records launches: `body` gets a pass that is good for launches alone. The encoder that comes back holds them, a pass each where the
   * device has timestamps, else all in one. Submit it, then call `submitted`.
   */
  record(body: (pass: GPUComputePassEncoder) => void): GPUCommandEncoder {
    const { device, features } = this.#gpu;
    const encoder = device.createCommandEncoder();
    const span = this.begin('record');
    const pass = encoder.beginComputePass();
    const traced = new TracedPass(pass);
    body(traced.asPass());
    pass.end();
    span.end();
    this.#launches.push(...traced.launches);
    if (!features.timestampQuery || traced.launches.length === 0) return encoder;

    const again = this.begin('trace');
    const timed = device.createCommandEncoder();
    const read = recordTimed(device, timed, traced.launches);
    this.#unsubmitted = { ready: performance.now(), kernels: traced.launches.map(({ kernel }) => kernel), read };
    again.end();
    return timed;
  }

  /** Says that what `record` gave last is on the queue. */
  submitted(): void {
    const submit = this.#unsubmitted;
    this.#unsubmitted = undefined;
    if (!submit) return;
    const span = this.begin('trace');
    this.#reads.push(
      submit.read().then(
        (times) => void this.#submits.push({ ...submit, times }),
        () => {}, // a lost device has no times
      ),
    );
    span.end();
  }

  /** Waits for the GPU's times. */
  async finish(): Promise<void> {
    await Promise.all(this.#reads.splice(0));
  }

  toJSON(): ChromeTrace {
    const now = performance.now();
    const origin = Math.min(...this.#spans.map(({ begin }) => begin), now);
    const span = (name: string, cat: string, tid: number, begin: number, end: number): TraceEvent => {
      return { name, ph: 'X', pid: 1, tid, cat, ts: (begin - origin) * 1000, dur: Math.max(0, end - begin) * 1000 };
    };
    const host = this.#spans.map(({ name, begin, end }) => span(name, 'host', hostTrack, begin, Number.isNaN(end) ? now : end));
    const launches = this.#launches.map(({ kernel, begin, end }) => span(kernel, 'launch', hostTrack, begin, end));
    const submits = [...this.#submits].sort((a, b) => a.ready - b.ready);
    const base = submits[0]?.times[0].begin ?? 0n;
    const milliseconds = (nanoseconds: bigint) => Number(nanoseconds - base) / 1e6;
    const shift = Math.max(...submits.map(({ ready, times }) => ready - milliseconds(times[0].begin)));
    const ends: number[] = [];
    const onGpu = submits.flatMap(({ kernels, times }) =>
      times.map((time, i) => {
        const [begin, end] = [milliseconds(time.begin), milliseconds(time.end)];
        const free = ends.findIndex((last) => last <= begin);
        const track = free < 0 ? ends.length : free;
        ends[track] = end;
        return span(kernels[i], 'gpu', gpuTrack + track, begin + shift, end + shift);
      }),
    );
    const names = [['host'], ...ends.map((_, i) => [i === 0 ? 'GPU' : `GPU, overlapping ${i}`])].map(
      ([name], i): TraceEvent => ({ name: 'thread_name', ph: 'M', pid: 1, tid: i + 1, args: { name } }),
    );
    const { vendor, architecture, description } = this.#gpu.adapter;
    const timestamps = this.#gpu.features.timestampQuery ? 'yes' : 'no: the device lacks timestamp-query';
    const otherData = {
      adapter: [vendor, architecture, description].filter((word) => /[a-z]/i.test(word)).join(' '),
      'GPU timestamps': timestamps,
    };
    return { displayTimeUnit: 'ms', traceEvents: [...names, ...host, ...launches, ...onGpu], otherData };
  }
}
