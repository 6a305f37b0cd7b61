/** The page's talk with a worker's service. */
import * as Comlink from 'comlink';
import { WorkerClosedError } from '../errors.ts';
import type { EngineService } from './protocol.ts';

/** A worker, or what stands for one. */
export interface WorkerLike {
  postMessage(message: unknown, transfer: Transferable[]): void;
  addEventListener(type: 'error' | 'messageerror', listener: (event: Event) => void): void;
  removeEventListener(type: 'error' | 'messageerror', listener: (event: Event) => void): void;
}

/** The worker's service, and what ends all talks with it. */
export class Link {
  readonly service: Comlink.Remote<EngineService>;
  readonly #worker: WorkerLike;
  readonly #port: MessagePort;
  readonly #failed: Promise<never>;
  #fail: (error: WorkerClosedError) => void = () => {};
  #closed = false;

  constructor(worker: WorkerLike, port: MessagePort) {
    this.#worker = worker;
    this.#port = port;
    this.service = Comlink.wrap<EngineService>(port);
    this.#failed = new Promise((_, reject) => {
      this.#fail = reject;
    });
    this.#failed.catch(() => {});
    for (const type of failures) worker.addEventListener(type, this.#onFailure);
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** An answer of the service, or the error that there will be none. */
  ask<T>(answer: Promise<T>): Promise<T> {
    answer.catch(() => {}); // when the worker fails first
    return Promise.race([answer, this.#failed]);
  }

  close(reason: string): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const type of failures) this.#worker.removeEventListener(type, this.#onFailure);
    void this.service.close();
    this.#fail(new WorkerClosedError(reason));
    // What was posted before is delivered all the same.
    this.#port.close();
  }

  readonly #onFailure = (event: Event): void => {
    const { message } = event as Partial<ErrorEvent>;
    this.close(message ? `its worker failed (${message})` : 'its worker failed, or its script could not be loaded');
  };
}

const failures = ['error', 'messageerror'] as const;
