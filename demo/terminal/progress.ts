/**
 * A progress bar on standard error, where that is a terminal.
 */
import { stderr } from 'node:process';
import { SingleBar } from 'cli-progress';
import type { LoadingText } from '../shared/loading.ts';

/** Shows how far something has come. `stop` takes the bar away again. */
export interface ProgressBar<T> {
  update(progress: T): void;
  stop(): void;
}

/** A bar, or nothing at all where standard error is a file or a pipe. @param describe a moment in words, with the fraction that is done */
export function createProgressBar<T>(describe: (progress: T) => LoadingText): ProgressBar<T> {
  if (!stderr.isTTY) return { update() {}, stop() {} };
  const bar = new SingleBar({
    stream: stderr,
    format: '{what} {bar} {percentage} %  {amount}',
    barCompleteChar: '█',
    barIncompleteChar: '░',
    barsize: 30,
    clearOnComplete: true,
    hideCursor: true,
    fps: 20,
    gracefulExit: false,
  });
  let started = false;
  return {
    update(progress) {
      const text = describe(progress);
      if (!started) bar.start(1, text.fraction, text);
      started = true;
      bar.update(text.fraction, text);
    },
    stop() {
      if (started) bar.stop();
      started = false;
    },
  };
}
