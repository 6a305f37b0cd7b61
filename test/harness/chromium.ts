/** The Chromium host: a page that waits for `runPagewiseSpecs(options)`; events go to `pagewiseEvent`, which the launcher provides. */
import { specFiles } from '../gpu/all.ts';
import type { HarnessEvent, RunOptions } from './events.ts';
import { runSpecs } from './runner.ts';

declare global {
  interface Window {
    pagewiseEvent(event: HarnessEvent): Promise<void>;
    runPagewiseSpecs(options: RunOptions): Promise<void>;
  }
}

window.runPagewiseSpecs = async (options) => {
  let sent = Promise.resolve();
  const runtime = /Chrome\/[\d.]+/.exec(navigator.userAgent)?.[0].replace('/', ' ') ?? navigator.userAgent;
  const emit = (event: HarnessEvent) => {
    sent = window.pagewiseEvent(event);
  };
  await runSpecs({ name: 'chromium', runtime, api: navigator.gpu, readFile, emit }, specFiles, options);
  await sent;
};

async function readFile(path: string): Promise<Uint8Array<ArrayBuffer>> {
  const response = await fetch(`/repository/${path}`);
  if (!response.ok) throw new Error(`${path}: ${response.status} ${response.statusText}`);
  return new Uint8Array(await response.arrayBuffer());
}
