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
  readonly #listeners = new WeakMap<GPUBuffer, (() => void)[]>();

  /** Calls `onDestroy` once `buffer` is destroyed. */
  watch(buffer: GPUBuffer, onDestroy: () => void): void {
    const known = this.#listeners.get(buffer);
    if (known) {
      known.push(onDestroy);
      return;
    }
    const listeners = [onDestroy];
    this.#listeners.set(buffer, listeners);
    const destroy = buffer.destroy.bind(buffer);
    const value = () => {
      this.#destroyed.add(buffer);
      for (const listener of listeners.splice(0)) listener();
      return destroy();
    };
    Object.defineProperty(buffer, 'destroy', { configurable: true, writable: true, value });
  }

  isDestroyed(buffer: GPUBuffer): boolean {
    return this.#destroyed.has(buffer);
  }
}
