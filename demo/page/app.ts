/**
 * The page's course: load a model, write when asked, stop when asked, and say what went wrong.
 */
import { DeviceLostError, WebGpuUnavailableError } from 'pagewise';
import type { Generation, GenerationResult } from 'pagewise/engine';
import { element, setText } from './elements.ts';
import { connectInstruments } from './instruments.ts';
import { connectLoadingBar } from './loading.ts';
import { connectNotice } from './notice.ts';
import { type PageQuery, readQuery } from './query.ts';
import { connectSampling, type SamplingOptions } from './sampling.ts';
import { openSession, type Session } from './session.ts';
import { createStory } from './story.ts';

/** `failed`: there is no model, and a notice says why. */
type PageState = 'loading' | 'ready' | 'writing' | 'failed';

/** Starts the page: loads the model that the address names, or the one that comes with Pagewise. */
export function startApp(): void {
  const composer = element('composer', HTMLFormElement);
  const prompt = element('prompt', HTMLTextAreaElement);
  const generateButton = element('generate', HTMLButtonElement);
  const stopButton = element('stop', HTMLButtonElement);
  const status = element('status', HTMLElement);
  const story = createStory(element('story', HTMLElement));
  const sampling = connectSampling();
  const instruments = connectInstruments();
  const notice = connectNotice();
  const bar = connectLoadingBar();
  let query: PageQuery;
  let session: Session | undefined;
  let state: PageState = 'loading';
  let stopping = new AbortController();

  function enter(next: PageState, message: string): void {
    state = next;
    document.body.dataset.state = next;
    const hadFocus = [generateButton, stopButton].some((button) => button === document.activeElement);
    generateButton.disabled = next !== 'ready';
    generateButton.hidden = next === 'writing';
    stopButton.hidden = next !== 'writing';
    if (hadFocus) (next === 'writing' ? stopButton : generateButton).focus();
    setText(status, message);
  }

  function closeSession(): void {
    const closing = session;
    session = undefined; // before its device goes, which is then no loss
    closing?.close();
    instruments.show(undefined);
  }

  async function load(): Promise<void> {
    closeSession();
    enter('loading', 'Loading the model.');
    if (notice.hide()) status.focus();
    bar.show();
    try {
      const opened = await openSession(query, bar.show);
      session = opened;
      void opened.engine.lost.then((loss) => session === opened && fail(loss));
      instruments.show(opened);
      sampling.suggest(opened.engine.defaults);
      enter('ready', 'Ready.');
    } catch (error) {
      fail(error);
    } finally {
      bar.hide();
    }
  }

  /** Closes the model, which is of no more use, and offers to load it again. */
  function fail(error: unknown): void {
    closeSession();
    const title = failureTitle(error);
    notice.showError(title, error, { label: error instanceof DeviceLostError ? 'Reload the model' : 'Retry', run: () => void load() });
    enter('failed', `${title}.`);
    console.error(error);
  }

  async function write(): Promise<void> {
    const options = state === 'ready' ? sampling.read() : undefined;
    if (!session || !options) return;
    notice.hide();
    stopping = new AbortController();
    try {
      const generation = session.engine.generate(prompt.value, { ...options, signal: stopping.signal });
      await show(generation, options, session);
    } catch (error) {
      notice.showError('The text could not be written', error);
      enter('ready', 'The text could not be written.');
      console.error(error);
    }
  }

  /** Puts a generation on the page until it ends. Of a lost device, `fail` hears by itself. */
  async function show(generation: Generation, { seed }: SamplingOptions, current: Session): Promise<void> {
    enter('writing', 'Writing.');
    story.begin(prompt.value);
    const stopFollowing = instruments.follow(generation, seed);
    try {
      for await (const { text } of generation) story.append(text);
      const result = await generation.result;
      enter('ready', describeEnd(result));
    } catch (error) {
      if (session === current && error instanceof DeviceLostError) fail(error);
      else if (session === current) throw error;
    } finally {
      stopFollowing();
      story.end();
    }
  }

  composer.addEventListener('submit', (event) => {
    event.preventDefault();
    void write();
  });
  stopButton.addEventListener('click', () => stopping.abort());
  addEventListener('keydown', (event) => {
    if (event.key === 'Escape') stopping.abort();
    if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    void write();
  });
  for (const button of document.querySelectorAll<HTMLButtonElement>('[data-opening]')) {
    button.addEventListener('click', () => {
      prompt.value = button.dataset.opening ?? '';
      prompt.focus();
    });
  }
  if (/Mac|iP(hone|ad|od)/.test(navigator.userAgent)) setText(element('modifier', HTMLElement), '⌘');

  try {
    query = readQuery(new URL(document.URL));
    void load();
  } catch (error) {
    notice.showError('This address cannot be opened', error);
    enter('failed', 'This address cannot be opened.');
  }
}

function failureTitle(error: unknown): string {
  if (error instanceof DeviceLostError) return 'The GPU was lost';
  return error instanceof WebGpuUnavailableError ? 'This browser offers no WebGPU' : 'The model could not be loaded';
}

function describeEnd({ finishReason, ids }: GenerationResult): string {
  const tokens = `${ids.length} ${ids.length === 1 ? 'token' : 'tokens'}`;
  if (finishReason === 'stop') return `The story is complete: ${tokens}.`;
  if (finishReason === 'abort') return `Stopped after ${tokens}.`;
  return `Ended at the limit: ${tokens}.`;
}
