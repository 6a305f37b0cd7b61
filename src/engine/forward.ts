import type { KvCache } from '../attention/kv-cache.ts';
import type { Gpu } from '../gpu.ts';
import type { LaunchCache } from '../launch/cache.ts';
import type { LlamaModel } from './model.ts';
import type { ReadbackRing } from './readback.ts';
import { runAheadDepth, stepTime } from './run-ahead.ts';

/** What steps outside the loop work with. */
export interface ForwardParts {
  readonly gpu: Gpu;
  readonly kv: KvCache;
  readonly cache: LaunchCache;
  readonly model: LlamaModel;
  /** Records the planned step. */
  record(): GPUCommandEncoder;
  /** Says that what was recorded is on the queue. */
  submitted(): void;
}

export interface ForwardOptions {
  readonly vocabSize: number;
  /** At most as many as the model has rows of logits and tokens in a step. */
  readonly rowsPerStep: number;
  /** Keys that a token sees; blocks before are given up. */
  readonly window: number | undefined;
}

/**
 * Runs `ids` without sampling; `onRows` gets the logits [rows][vocabSize] of the tokens from `first` on. Opens a sequence of its own, for which there must be room.
 */
export async function forward(
  { gpu, kv, cache, model, record, submitted }: ForwardParts,
  ids: readonly number[],
  { vocabSize, rowsPerStep, window }: ForwardOptions,
  onRows: (rows: Float32Array, first: number) => void,
): Promise<void> {
  const rowBytes = vocabSize * 4;
  const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
  const staging = gpu.device.createBuffer({ label: 'logits readback', size: rowsPerStep * rowBytes, usage });
  const sequence = kv.open();
  try {
    for (let first = 0; first < ids.length; first += rowsPerStep) {
      const tokens = ids.slice(first, first + rowsPerStep);
      if (window !== undefined) kv.release(sequence, sequence.length - window + 1);
      kv.extend(sequence, tokens.length);
      model.plan(
        [{ sequence, queryLen: tokens.length, tokens }],
        tokens.map((_, i) => i),
      );
      const encoder = record();
      encoder.copyBufferToBuffer(model.logits, 0, staging, 0, tokens.length * rowBytes);
      cache.submit([encoder.finish()]);
      submitted();
      await staging.mapAsync(GPUMapMode.READ, 0, tokens.length * rowBytes);
      onRows(new Float32Array(staging.getMappedRange(0, tokens.length * rowBytes)).slice(), first);
      staging.unmap();
    }
  } finally {
    kv.close(sequence);
    staging.destroy();
  }
}

/** Of each row of logits after the first, the negative log likelihood of the token that came. */
export function scoreRows(rows: Float32Array, first: number, ids: readonly number[], vocabSize: number): number[] {
  const scores: number[] = [];
  for (let row = 0; row < rows.length / vocabSize && first + row + 1 < ids.length; row++) {
    const logits = rows.subarray(row * vocabSize, (row + 1) * vocabSize);
    const maximum = logits.reduce((a, b) => Math.max(a, b));
    const sum = logits.reduce((total, logit) => total + Math.exp(logit - maximum), 0);
    scores.push(maximum + Math.log(sum) - logits[ids[first + row + 1]]);
  }
  return scores;
}

/** Warms up, and finds the depth (`runAheadDepth`) by a sequence of its own, of at most `contextLength` tokens (2 or more). */
export async function measureRunAhead(parts: ForwardParts, ring: ReadbackRing, contextLength: number): Promise<number> {
  const steps = Math.min(8, contextLength - 2);
  const greedy = { temperature: 0, topK: 0, topP: 1, seed: 0, stopTokens: [] };
  const { kv, cache, model } = parts;
  const sequence = kv.open();
  const submit = (isLast: boolean) => {
    kv.extend(sequence, 1);
    model.plan([{ sequence, queryLen: 1, tokens: sequence.length === 1 ? [0] : undefined, sample: greedy }]);
    const encoder = parts.record();
    const read = isLast ? ring.record(encoder, model.results) : undefined;
    cache.submit([encoder.finish()]);
    return read?.();
  };
  try {
    // Only the last step is read: where a readback holds the host up, others would add to the time of a step.
    const run = async (count: number): Promise<number> => {
      const start = performance.now();
      let last: ReturnType<typeof submit>;
      for (let left = count; left > 0; left--) last = submit(left === 1);
      await last;
      return performance.now() - start;
    };
    await run(1);
    const one = await run(1);
    const step = stepTime(one, await run(steps), steps);
    return runAheadDepth(one - (step ?? 0), step);
  } finally {
    kv.close(sequence);
  }
}
