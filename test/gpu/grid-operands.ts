/** The input buffers of a case: queries, keys and values of a step's tokens, in three buffers or with gaps in one. */
import { emptyBuffer, type SpecContext } from '../harness/harness.ts';
import { type GridCase, headsOf } from './grid.ts';
import type { CaseInputs } from './grid-inputs.ts';
import { recordPoison } from './poison.ts';

/** A token of a sequence, by its place there. */
export type TokenPlace = readonly [sequence: number, place: number];

/** Most values of one buffer: longer contexts are appended in several steps. */
const maxValues = 4e6;

type Name = 'query' | 'key' | 'value';

export class GridOperands {
  /** New tokens of the batch. */
  readonly queryTokens: number;
  /** Tokens that one step can have. */
  readonly maxTokens: number;
  readonly buffers: Readonly<Record<Name, GPUBuffer>>;
  /** Where a token's rows begin, in values. */
  readonly places: Readonly<Record<Name, { readonly stride: number; readonly offset: number }>>;
  readonly #t: SpecContext;
  readonly #inputs: CaseInputs;

  constructor(t: SpecContext, of: GridCase, inputs: CaseInputs) {
    this.#t = t;
    this.#inputs = inputs;
    const { numHeads, numKvHeads } = headsOf(of);
    const [querySize, keySize] = [numHeads * of.headDim, numKvHeads * of.headDim];
    const packed = of.operands === 'packed';
    const stride = querySize + 2 * keySize + 11;
    const dense = { stride: keySize, offset: 0 };
    this.places = packed
      ? { query: { stride, offset: keySize + 3 }, key: { stride, offset: 1 }, value: { stride, offset: keySize + querySize + 8 } }
      : { query: { stride: querySize, offset: 0 }, key: dense, value: dense };
    const sum = (count: (sequence: CaseInputs['sequences'][number]) => number) =>
      inputs.sequences.reduce((all, one) => all + count(one), 0);
    this.queryTokens = sum(({ queryLen }) => queryLen);
    const contextTokens = sum(({ seqLen, queryLen }) => seqLen - queryLen);
    this.maxTokens = Math.max(1, this.queryTokens, Math.min(contextTokens, Math.floor(maxValues / this.places.key.stride)));
    const encoder = t.gpu.device.createCommandEncoder();
    const buffer = (tokens: number, size: number) => {
      const made = emptyBuffer(t, Math.max(1, tokens * size) * 4, undefined, t.gpu);
      recordPoison(t.gpu, encoder, made);
      return made;
    };
    const key = buffer(this.maxTokens, this.places.key.stride);
    this.buffers = packed
      ? { query: key, key, value: key }
      : { query: buffer(this.queryTokens, querySize), key, value: buffer(this.maxTokens, keySize) };
    t.gpu.device.queue.submit([encoder.finish()]);
  }

  /** Writes the rows of these tokens, queries where they are new tokens; NaN between them. */
  upload(tokens: readonly TokenPlace[]): void {
    const data = new Map<GPUBuffer, Float32Array<ArrayBuffer>>();
    for (const name of ['query', 'key', 'value'] as const) {
      const { stride, offset } = this.places[name];
      const buffer = this.buffers[name];
      const floats = data.get(buffer) ?? new Float32Array(Math.min(tokens.length * stride, buffer.size / 4)).fill(Number.NaN);
      data.set(buffer, floats);
      tokens.forEach(([sequence, place], token) => {
        const { keys, values, queries, seqLen, queryLen } = this.#inputs.sequences[sequence];
        const row = name === 'key' ? keys[place] : name === 'value' ? values[place] : queries[place - seqLen + queryLen];
        if (row) floats.set(row, token * stride + offset);
      });
    }
    // Deno 2.9 panics on a write of no bytes.
    for (const [buffer, floats] of data) if (floats.length > 0) this.#t.gpu.device.queue.writeBuffer(buffer, 0, floats);
  }
}
