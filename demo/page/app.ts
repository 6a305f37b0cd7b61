/**
 * The page's course: load a model, write when asked, stop when asked, and say what went wrong.
 */
import { DeviceLostError, WebGpuUnavailableError } from 'pagewise';
import type { Generation, GenerationResult } from 'pagewise/engine';
import { connectBlockPicture } from './block-picture.ts';
import { element, setText } from './elements.ts';
import { connectFigures } from './figures-view.ts';
import { connectLoadingBar } from './loading.ts';
import { connectNotice } from './notice.ts';
import { type PageQuery, readQuery } from './query.ts';
import { connectSampling } from './sampling.ts';
import { openSession, type Session } from './session.ts';
import { createStory } from './story.ts';

/** `failed`: there is no model, and a notice says why. */
type PageState = 'loading' | 'ready' | 'writing' | 'failed';

/** Between two updates of the figures, in milliseconds: slow enough to be read. */
const figuresInterval = 250;

/** Starts the page: loads the model that the address names, or the one that comes with Pagewise. */
export function startApp(): void {
  const prompt = element('prompt', HTMLTextAreaElement);
  const generateButton = element('generate', HTMLButtonElement);
  const stopButton = element('stop', HTMLButtonElement);
  const status = element('status', HTMLElement);
  const sampling = connectSampling();
  const figures = connectFigures();
  const picture = connectBlockPicture();
  const notice = connectNotice();
  const bar = connectLoadingBar();
  const story = createStory(element('story', HTMLElement));
  let session: Session | undefined;
  let stopping = new AbortController();

  function enter(state: PageState, message: string): void {
    document.body.dataset.state = state;
    const focusMoves = document.activeElement === generateButton || document.activeElement === stopButton;
    generateButton.disabled = state !== 'ready';
    generateButton.hidden = state === 'writing';
    stopButton.hidden = state !== 'writing';
    if (focusMoves) (state === 'writing' ? stopButton : generateButton).focus();
    setText(status, message);
  }

  async function load(query: PageQuery): Promise<void> {
    session?.close();
    session = undefined;
    notice.hide();
    picture.show(undefined);
    enter('loading', 'Loading the model.');
    bar.show();
    try {
      const opened = await openSession(query, new AbortController().signal, bar.show);
      session = opened;
      void opened.gpu.lost.then((loss) => session === opened && fail(query, loss));
      figures.showAdapter(opened.gpu.adapter);
      sampling.suggest(opened.engine.defaults);
      picture.show(opened.engine.kv);
      enter('ready', 'Ready.');
    } catch (error) {
      fail(query, error);
    } finally {
      bar.hide();
    }
  }

  /** Closes the model, which is of no more use, and offers to load it again. */
  function fail(query: PageQuery, error: unknown): void {
    const lost = error instanceof DeviceLostError;
    session?.close();
    session = undefined;
    picture.show(undefined);
    const reload = { label: lost ? 'Reload the model' : 'Retry', run: () => void load(query) };
    const noWebGpu = error instanceof WebGpuUnavailableError;
    const title = lost ? 'The GPU was lost' : noWebGpu ? 'This browser offers no WebGPU' : 'The model could not be loaded';
    notice.showError(title, error, reload);
    enter('failed', `${title}.`);
    report(error);
  }

  async function write(query: PageQuery): Promise<void> {
    const options = session && document.body.dataset.state === 'ready' ? sampling.read() : undefined;
    if (!session || !options) return;
    const current = session;
    const { engine } = current;
    notice.hide();
    stopping = new AbortController();
    let generation: Generation;
    try {
      generation = engine.generate(prompt.value, { ...options, signal: stopping.signal });
    } catch (error) {
      notice.showError('The text could not be written', error);
      report(error);
      return;
    }
    enter('writing', 'Writing.');
    story.begin(prompt.value);
    figures.showSeed(options.seed);
    const instruments = runInstruments(generation);
    try {
      for await (const { text } of generation) story.append(text);
      enter('ready', describeEnd(await generation.result));
    } catch (error) {
      if (error instanceof DeviceLostError) {
        if (session === current) fail(query, error);
      } else {
        notice.showError('The text could not be finished', error);
        enter('ready', 'The text could not be finished.');
        report(error);
      }
    } finally {
      instruments.stop();
      story.end();
    }
  }

  /** Keeps figures and picture up to date, once a frame at most. */
  function runInstruments(generation: Generation): { stop(): void } {
    let frame = 0;
    let lastFigures = 0;
    const tick = (now: number): void => {
      picture.update();
      if (now - lastFigures >= figuresInterval) {
        lastFigures = now;
        figures.update(generation.stats());
      }
      frame = requestAnimationFrame(tick);
    };
    frame = requestAnimationFrame(tick);
    return {
      stop() {
        cancelAnimationFrame(frame);
        picture.update();
        figures.update(generation.stats());
      },
    };
  }

  function connectKeysAndButtons(query: PageQuery): void {
    if (/Mac|iP(hone|ad|od)/.test(navigator.userAgent)) setText(element('modifier', HTMLElement), '⌘');
    const composer = element('composer', HTMLFormElement);
    composer.addEventListener('submit', (event) => {
      event.preventDefault();
      void write(query);
    });
    stopButton.addEventListener('click', () => stopping.abort());
    addEventListener('keydown', (event) => {
      if (event.key === 'Escape') stopping.abort();
      if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        void write(query);
      }
    });
    for (const button of document.querySelectorAll<HTMLButtonElement>('[data-opening]')) {
      button.addEventListener('click', () => {
        prompt.value = button.dataset.opening ?? '';
        prompt.focus();
      });
    }
  }

  try {
    const query = readQuery(new URL(document.URL));
    connectKeysAndButtons(query);
    void load(query);
  } catch (error) {
    notice.showError('This address cannot be opened', error);
    enter('failed', 'This address cannot be opened.');
  }
}

function describeEnd({ finishReason, ids }: GenerationResult): string {
  const tokens = `${ids.length} ${ids.length === 1 ? 'token' : 'tokens'}`;
  if (finishReason === 'stop') return `The story is complete: ${tokens}.`;
  if (finishReason === 'abort') return `Stopped after ${tokens}.`;
  return `Ended at the limit: ${tokens}.`;
}

function report(error: unknown): void {
  console.error(error);
}
