/** Stop strings in text that comes in pieces. Pure. */

/** Lets text through up to a stop string, and holds back what may become one. */
export interface StopText {
  /**
   * Text that is certain now; `stopped` once a stop string is complete, which is no part of it.
   * @param early a stop string that is complete within this piece or before does not count, as within `min_tokens` of vLLM.
   */
  push(piece: string, early?: boolean): { readonly text: string; readonly stopped: boolean };
  /** What was held back, where the text ends without a stop string. */
  flush(): string;
}

/** @param stops none of them empty. The one that begins first counts. */
export function createStopText(stops: readonly string[]): StopText {
  let held = '';
  /** How much of what is held came early: stop strings must end behind it. */
  let early = 0;
  return {
    push(piece, isEarly = false) {
      held += piece;
      if (isEarly) early = held.length;
      const starts = stops.map((stop) => held.indexOf(stop, early - stop.length + 1)).filter((start) => start >= 0);
      if (starts.length > 0) {
        const text = held.slice(0, Math.min(...starts));
        held = '';
        return { text, stopped: true };
      }
      const certain = held.length - Math.max(0, ...stops.map((stop) => overlap(held, stop)));
      const text = held.slice(0, certain);
      held = held.slice(certain);
      early = Math.max(0, early - certain);
      return { text, stopped: false };
    },
    flush() {
      const text = held;
      held = '';
      return text;
    },
  };
}

/** Length of the longest end of `text` that `stop` begins with. */
function overlap(text: string, stop: string): number {
  let length = Math.min(text.length, stop.length - 1);
  while (length > 0 && !text.endsWith(stop.slice(0, length))) length--;
  return length;
}
