/**
 * A progress bar on standard error, where that is a terminal.
 */
import { stderr } from 'node:process';
import { SingleBar } from 'cli-progress';
import type { LoadProgress } from 'pagewise/engine';
import { loadingText } from '../shared/loading.ts';

/** Shows how far loading has come. `stop` takes the bar away again. */
export interface ProgressBar {
  update(progress: LoadProgress): void;
  stop(): void;
}

/** A bar, or nothing at all where standard error is a file or a pipe. */
export function createProgressBar(): ProgressBar {
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
      const text = loadingText(progress);
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
