/**
 * What went wrong, in the page: a title, what to do, and a button where one helps.
 */
import { PagewiseError, WebGpuUnavailableError } from 'pagewise';
import { element, make } from './elements.ts';
import { webGpuAdvice } from './help.ts';

/** A button under a notice. */
export interface NoticeAction {
  readonly label: string;
  run(): void;
}

/** The place for one notice. */
export interface Notice {
  /** Says what an error means. */
  showError(title: string, error: unknown, action?: NoticeAction): void;
  /** Takes it away, and says whether the focus was in it and is now nowhere. */
  hide(): boolean;
}

/** Connects to the notice of index.html. A screen reader announces it as it appears. */
export function connectNotice(): Notice {
  const box = element('notice', HTMLElement);
  return {
    showError(title, error, action) {
      const children: Node[] = [make('h2', '', title), make('p', '', explain(error))];
      if (error instanceof WebGpuUnavailableError) children.push(adviceList(error));
      if (action) {
        const button = make('button', 'primary', action.label);
        button.type = 'button';
        button.addEventListener('click', action.run);
        children.push(button);
      }
      box.replaceChildren(...children);
      box.hidden = false;
    },
    hide() {
      const hadFocus = box.contains(document.activeElement);
      box.hidden = true;
      box.replaceChildren();
      return hadFocus;
    },
  };
}

function explain(error: unknown): string {
  if (error instanceof WebGpuUnavailableError && error.reason === 'no-api') {
    return 'This page computes on your GPU through WebGPU, which this browser does not offer here. What helps:';
  }
  const message = error instanceof Error ? error.message : String(error);
  const firstLine = message.split('\n', 1)[0] ?? '';
  return error instanceof PagewiseError ? firstLine : `Unexpected error: ${firstLine} The browser's console has more; please report it.`;
}

function adviceList(error: WebGpuUnavailableError): HTMLElement {
  const facts = { userAgent: navigator.userAgent, secure: isSecureContext, hasApi: error.reason !== 'no-api' };
  const rows = webGpuAdvice(facts).flatMap(({ browser, advice }) => [make('dt', '', browser), make('dd', '', ...markCode(advice))]);
  return make('dl', 'advice', ...rows);
}

/** Text in which what stands between backticks becomes code. */
function markCode(text: string): (Node | string)[] {
  return text.split('`').map((part, index) => (index % 2 === 1 ? make('code', '', part) : part));
}
