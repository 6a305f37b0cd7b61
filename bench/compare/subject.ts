/** What is compared: cases, and what every way to attend can do. */
import type { KvDtype } from 'pagewise';
import type { Shape } from '../attention/case.ts';

/** A batch of sequences of one length, which every rival can do; each has `queryLen` new tokens at its end. */
export interface CompareCase extends Shape {
  readonly name: string;
  readonly batch: number;
  readonly queryLen: number;
  /** With the new tokens. */
  readonly seqLen: number;
  /** Storage of keys and values that all have. */
  readonly kv: Extract<KvDtype, 'f32' | 'f16'>;
  /** Attentions of one step, as a model has layers. */
  readonly layers: number;
  /** Caches that the layers use in turn; together they exceed the last-level cache. */
  readonly caches: number;
}

/** One way to attend, set up for a case. A step is one attention in each layer: new keys and values into the cache, then attention of the new queries. */
export interface Subject {
  readonly name: string;
  /** What a reader must know of how it was run. */
  readonly notes: readonly string[];
  /** Puts `count` steps into the device's queue and does not wait for the GPU. */
  enqueue(count: number): Promise<void>;
  /** f32 [batch * queryLen, numHeads, headDim], of the last step's last layer. */
  output(): Promise<Float32Array>;
  destroy(): Promise<void>;
}

/** Largest difference from the truth, |actual - expected| <= atol + rtol * |expected|. */
export interface Tolerance {
  readonly atol: number;
  readonly rtol: number;
}
