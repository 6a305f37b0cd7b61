/**
 * The story's text. What comes in is kept until the next frame and then appended, so that a fast model costs one layout per frame.
 */
import { make } from './elements.ts';
import { followCaret } from './follow.ts';

/** The text on the page. */
export interface Story {
  /** Clears the page and puts the prompt on it. */
  begin(prompt: string): void;
  /** Takes more text; it shows with the next frame. */
  append(text: string): void;
  /** Shows what is left and takes the caret away. */
  end(): void;
}

/** Writes into `article`: one paragraph per line of text. */
export function createStory(article: HTMLElement): Story {
  const caret = make('span', 'caret');
  caret.setAttribute('aria-hidden', 'true');
  const follower = followCaret(caret);
  let paragraph: HTMLElement | undefined;
  let target: Text | undefined;
  let pending = '';
  let frame = 0;

  /** Lines become paragraphs; a blank line makes none, and the first words of a line open it. */
  function write(text: string, className = ''): void {
    for (const [index, line] of text.split('\n').entries()) {
      if (index > 0) paragraph = undefined;
      if (line === '') continue;
      if (!paragraph) {
        paragraph = make('p', '');
        article.append(paragraph);
        target = undefined;
      }
      if (className) paragraph.append(make('span', className, line));
      else if (target) target.appendData(line);
      else {
        target = document.createTextNode(line);
        paragraph.append(target);
      }
    }
    if (!paragraph) target = undefined;
  }

  function flush(): void {
    cancelAnimationFrame(frame);
    frame = 0;
    if (pending === '') return;
    caret.remove();
    write(pending);
    pending = '';
    (paragraph ?? article).append(caret);
    follower.grown();
  }

  return {
    begin(prompt) {
      pending = '';
      paragraph = undefined;
      target = undefined;
      article.replaceChildren();
      write(prompt, 'prompt');
      (paragraph ?? article).append(caret);
      article.setAttribute('aria-busy', 'true');
      follower.start();
    },
    append(text) {
      pending += text;
      if (frame === 0) frame = requestAnimationFrame(flush);
    },
    end() {
      flush();
      follower.stop();
      caret.remove();
      article.setAttribute('aria-busy', 'false');
    },
  };
}
