/**
 * The bar that shows how far loading has come.
 */
import type { LoadProgress } from 'pagewise/engine';
import { loadingText } from '../shared/loading.ts';
import { element, setText } from './elements.ts';

/** The bar. */
export interface LoadingBar {
  /** Without progress: something is going on, nobody knows how far. */
  show(progress?: LoadProgress): void;
  hide(): void;
}

/** Connects to the bar of index.html; however often progress is told, it is drawn once a frame. */
export function connectLoadingBar(): LoadingBar {
  const box = element('loading', HTMLElement);
  const bar = element('progress', HTMLProgressElement);
  const what = element('loading-what', HTMLElement);
  const amount = element('loading-amount', HTMLElement);
  let latest: LoadProgress | undefined;
  let frame = 0;
  function draw(): void {
    frame = 0;
    const text = latest && loadingText(latest);
    setText(what, text?.what ?? 'Opening the GPU');
    setText(amount, text?.amount ?? '');
    if (text) bar.value = text.fraction;
    else bar.removeAttribute('value');
  }
  return {
    show(progress) {
      latest = progress;
      box.hidden = false;
      if (frame === 0) frame = requestAnimationFrame(draw);
    },
    hide() {
      box.hidden = true;
    },
  };
}
