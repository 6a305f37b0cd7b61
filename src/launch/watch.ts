import type { BufferArgument } from './kernel.ts';

/** The buffer of an argument, without its range. */
export function bufferOf(argument: BufferArgument): GPUBuffer {
  return 'buffer' in argument ? argument.buffer : argument;
}

/**
 * Notices when buffers are destroyed, so that nothing made with one stays within reach. WebGPU does not say whether a buffer was destroyed;
 * so each watched buffer gets a `destroy` of its own, which passes the call on.
 */
export class BufferWatch {
  readonly #destroyed = new WeakSet<GPUBuffer>();
  readonly #listeners = new WeakMap<GPUBuffer, Set<() => void>>();

  /** Calls `onDestroy` once `buffer` is destroyed, unless `unwatch` comes first. */
  watch(buffer: GPUBuffer, onDestroy: () => void): void {
    this.#track(buffer).add(onDestroy);
  }

  /** Lets go of what `watch` was given. */
  unwatch(buffer: GPUBuffer, onDestroy: () => void): void {
    this.#listeners.get(buffer)?.delete(onDestroy);
  }

  /** Of a buffer that this watch has not met before, it can only be known from now on. */
  isDestroyed(buffer: GPUBuffer): boolean {
    this.#track(buffer);
    return this.#destroyed.has(buffer);
  }

  #track(buffer: GPUBuffer): Set<() => void> {
    const known = this.#listeners.get(buffer);
    if (known) return known;
    const listeners = new Set<() => void>();
    this.#listeners.set(buffer, listeners);
    const destroy = buffer.destroy.bind(buffer);
    const value = () => {
      this.#destroyed.add(buffer);
      for (const listener of listeners) listener();
      listeners.clear();
      return destroy();
    };
    Object.defineProperty(buffer, 'destroy', { configurable: true, writable: true, value });
    return listeners;
  }
}
