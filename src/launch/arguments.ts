import type { Values } from './entry.ts';
import type { KernelShape } from './kernel.ts';

/** A per-call value: its name among the arguments, its word in the struct `Arguments`, and its type as a number, which is quick to tell. */
export interface ArgumentField {
  readonly name: string;
  readonly word: number;
  readonly type: number;
}

const fieldTypes = ['u32', 'f32', 'i32'] as const;

export function fieldsOf({ perCall }: KernelShape): readonly ArgumentField[] {
  return perCall.map(({ name, word, type }) => ({ name, word, type: fieldTypes.indexOf(type) }));
}

/** Bytes between slots: WebGPU's largest possible `minUniformBufferOffsetAlignment`. */
const slotBytes = 256;
const slotWords = slotBytes / 4;

/** One launch's per-call values: a fixed place in the arena that a bind group points at. */
export interface ArgumentSlot {
  readonly arena: ArgumentArena;
  /** Byte offset of the slot in the arena's buffer. */
  readonly offset: number;
  /** Index of the slot's first word in the arena's mirrors. */
  readonly word: number;
}

/**
 * Per-call values of launches, in one uniform buffer with a mirror on the host.
 *
 * `queue.writeBuffer` takes effect before the *whole* next submit, so every launch of a submit needs a slot of its own. Values are
 * written to the mirror while launches are recorded and travel in one write of the changed range, at `flush()`.
 * Slots are never taken back: a launch at a fixed place in a step keeps its slot, and a value that did not change is not written again.
 */
export class ArgumentArena {
  readonly buffer: GPUBuffer;
  readonly f32: Float32Array;
  readonly u32: Uint32Array;
  readonly i32: Int32Array;
  readonly #capacity: number;
  readonly #queue: GPUQueue;
  #used = 0;
  #dirtyBegin = Number.POSITIVE_INFINITY;
  #dirtyEnd = 0;

  /** @param capacity slots; each takes 256 bytes, WebGPU's alignment of uniform offsets. */
  constructor(device: GPUDevice, capacity: number) {
    this.#capacity = capacity;
    this.buffer = device.createBuffer({
      label: 'pagewise arguments',
      size: capacity * slotBytes,
      usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
    });
    const mirror = new ArrayBuffer(capacity * slotBytes);
    this.f32 = new Float32Array(mirror);
    this.u32 = new Uint32Array(mirror);
    this.i32 = new Int32Array(mirror);
    this.#queue = device.queue;
  }

  /** Takes a slot for good, or returns undefined when the arena is full. */
  take(): ArgumentSlot | undefined {
    if (this.#used === this.#capacity) return undefined;
    const index = this.#used++;
    return { arena: this, offset: index * slotBytes, word: index * slotWords };
  }

  /** Writes a launch's values to the mirror, from its slot's first word on. */
  write(slot: number, fields: readonly ArgumentField[], values: Values): void {
    const { u32, f32, i32 } = this;
    for (let i = 0; i < fields.length; i++) {
      const { name, word, type } = fields[i];
      const at = slot + word;
      const value = values[name] as number;
      const before = u32[at]; // bits, so that NaN equals itself and -0 is not 0
      if (type === 0) u32[at] = value;
      else if (type === 1) f32[at] = value;
      else i32[at] = value;
      if (u32[at] === before) continue;
      if (at < this.#dirtyBegin) this.#dirtyBegin = at;
      if (at >= this.#dirtyEnd) this.#dirtyEnd = at + 1;
    }
  }

  /** Writes what changed since the last flush, in one write at most. */
  flush(): void {
    if (this.#dirtyEnd === 0) return;
    const begin = this.#dirtyBegin;
    this.#queue.writeBuffer(this.buffer, begin * 4, this.u32, begin, this.#dirtyEnd - begin);
    this.#dirtyBegin = Number.POSITIVE_INFINITY;
    this.#dirtyEnd = 0;
  }

  destroy(): void {
    this.buffer.destroy();
  }
}

/** The values of the launch being recorded, as `setImmediates` takes them: it copies them at once. */
export class ImmediateArguments {
  readonly #u32: Uint32Array<ArrayBuffer>;
  readonly #f32: Float32Array;
  readonly #i32: Int32Array;

  /** @param bytes of the struct `Arguments`. */
  constructor(bytes: number) {
    const memory = new ArrayBuffer(bytes);
    this.#u32 = new Uint32Array(memory);
    this.#f32 = new Float32Array(memory);
    this.#i32 = new Int32Array(memory);
  }

  /** @returns the struct, valid until the next call */
  write(fields: readonly ArgumentField[], values: Values): Uint32Array<ArrayBuffer> {
    for (let i = 0; i < fields.length; i++) {
      const { name, word, type } = fields[i];
      const value = values[name] as number;
      if (type === 0) this.#u32[word] = value;
      else if (type === 1) this.#f32[word] = value;
      else this.#i32[word] = value;
    }
    return this.#u32;
  }
}
