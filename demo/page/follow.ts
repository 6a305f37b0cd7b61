/**
 * Keeps the end of a growing text in view, as long as the reader does not scroll away from it.
 */

/** Watches the caret. */
export interface Follower {
  start(): void;
  /** Text was added above the caret. */
  grown(): void;
  stop(): void;
}

/** How long a reader's own scrolling counts, in milliseconds. */
const readerPause = 1000;

/** Follows `caret` through the document. Reads no layout: an observer tells when the caret has left the view. */
export function followCaret(caret: HTMLElement): Follower {
  let following = false;
  let lastScroll = Number.NEGATIVE_INFINITY;
  const readerScrolls = (): void => {
    lastScroll = performance.now();
  };
  for (const event of ['wheel', 'touchmove', 'keydown']) addEventListener(event, readerScrolls, { passive: true });
  const observer = new IntersectionObserver(([entry]) => {
    if (entry?.isIntersecting) following = true;
    else if (caret.isConnected && performance.now() - lastScroll < readerPause) following = false;
    else if (following && caret.isConnected) scroll();
  });
  function scroll(): void {
    const smooth = matchMedia('(prefers-reduced-motion: no-preference)').matches;
    caret.scrollIntoView({ block: 'nearest', behavior: smooth ? 'smooth' : 'auto' });
  }
  return {
    start() {
      following = true;
      observer.observe(caret);
    },
    grown() {
      // Observed anew, the observer reports once more, also where nothing changed for it.
      observer.unobserve(caret);
      observer.observe(caret);
    },
    stop() {
      observer.disconnect();
    },
  };
}
