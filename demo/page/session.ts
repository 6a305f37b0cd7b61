/**
 * A device with a model on it: opened together, closed together.
 */
import { type Gpu, openGpu } from 'pagewise';
import { Engine, filesFromUrl, type LoadProgress } from 'pagewise/engine';
import type { PageQuery } from './query.ts';

/** An open model. `close` frees the device and everything on it. */
export interface Session {
  readonly gpu: Gpu;
  readonly engine: Engine;
  close(): void;
}

/** Opens a device and loads the model. After a throw, nothing is left open. */
export async function openSession(query: PageQuery, onProgress: (progress: LoadProgress) => void): Promise<Session> {
  const gpu = await openGpu();
  try {
    const files = filesFromUrl(query.model);
    const engine = await Engine.load(gpu, files, { maxSequences: 1, ...query.engine, onProgress });
    return {
      gpu,
      engine,
      close() {
        engine.destroy();
        gpu.destroy();
      },
    };
  } catch (error) {
    gpu.destroy();
    throw error;
  }
}
