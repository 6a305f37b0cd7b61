/** What the page and its service worker tell each other. */
import type { LoadProgress } from 'pagewise/engine';

/** The page asks, over a port of its own, whether the service worker has WebGPU. */
export interface Question {
  readonly ask: 'webgpu';
}

export interface Answer {
  readonly webgpu: boolean;
}

/** The service worker tells every page how far loading has come. */
export interface Progress {
  readonly progress: LoadProgress;
}
