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
  hide(): void;
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
      box.hidden = true;
      box.replaceChildren();
    },
  };
}

function explain(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  const firstLine = message.split('\n', 1)[0] ?? '';
  return error instanceof PagewiseError ? firstLine : `Unexpected error: ${firstLine} The browser's console has more; please report it.`;
}

function adviceList(error: WebGpuUnavailableError): HTMLElement {
  const facts = { userAgent: navigator.userAgent, secure: isSecureContext, hasApi: error.reason !== 'no-api' };
  const rows = webGpuAdvice(facts).flatMap(({ browser, advice }) => [make('dt', '', browser), make('dd', '', advice)]);
  return make('dl', 'advice', ...rows);
}
