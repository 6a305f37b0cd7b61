/**
 * The progress of loading in words, the same in the terminal and in the page.
 */
import type { LoadProgress } from 'pagewise/engine';

/** One moment of loading. */
export interface LoadingText {
  readonly what: string;
  /** How much of the phase is done, 0 to 1. */
  readonly fraction: number;
  /** What of how much; empty while that is unknown. */
  readonly amount: string;
}

const phases: Readonly<Record<LoadProgress['phase'], string>> = {
  files: 'Reading the model',
  weights: 'Filling the GPU',
  pipelines: 'Compiling kernels',
};

/** Says a moment of loading in words. */
export function loadingText({ phase, loaded, total }: LoadProgress): LoadingText {
  const fraction = total > 0 ? Math.min(1, loaded / total) : 0;
  const amount = phase === 'pipelines' ? `${loaded} of ${total}` : megabytes(loaded, total);
  return { what: phases[phase], fraction, amount: total > 0 || phase !== 'pipelines' ? amount : '' };
}

function megabytes(loaded: number, total: number): string {
  const mega = (bytes: number): string => (bytes / 1e6).toFixed(1);
  return total > 0 ? `${mega(loaded)} of ${mega(total)} MB` : `${mega(loaded)} MB`;
}
