/**
 * A worker with a model on its device: opened together, closed together.
 */
import { WebGpuUnavailableError } from 'pagewise';
import type { LoadProgress } from 'pagewise/engine';
import { createWorkerEngine, type WorkerEngine } from 'pagewise/worker';
import type { PageQuery } from './query.ts';

/** An open model. `close` ends the worker and frees the device and everything on it. */
export interface Session {
  readonly engine: WorkerEngine;
  close(): void;
}

/** Starts a worker and loads the model in it. After a throw, nothing is left open. */
export async function openSession(query: PageQuery, onProgress: (progress: LoadProgress) => void): Promise<Session> {
  // A browser without WebGPU in its pages has none in its workers.
  if (!navigator.gpu) throw new WebGpuUnavailableError('no-api');
  const worker = new Worker(new URL('./engine-worker.ts', import.meta.url), { type: 'module' });
  try {
    const engine = await createWorkerEngine(worker, query.model, { maxSequences: 1, ...query.engine, onProgress });
    return {
      engine,
      close() {
        engine.destroy();
        worker.terminate();
      },
    };
  } catch (error) {
    worker.terminate();
    throw error;
  }
}
