/**
 * The page's instruments: the figures and the picture of the KV cache, kept up to date while text is written.
 */
import type { Generation } from 'pagewise/engine';
import { connectBlockPicture } from './block-picture.ts';
import { connectFigures } from './figures-view.ts';
import type { Session } from './session.ts';

/** The instruments. */
export interface Instruments {
  /** Shows an open model; undefined: none is. */
  show(session: Session | undefined): void;
  /** Follows a generation until the function that it gives is called. */
  follow(generation: Generation, seed: number | undefined): () => void;
}

/** Between two updates of the figures, in milliseconds: slow enough to be read. */
const figuresInterval = 250;

/** Connects to the instruments of index.html. They are updated once a frame at most. */
export function connectInstruments(): Instruments {
  const figures = connectFigures();
  const picture = connectBlockPicture();
  return {
    show(session) {
      if (session) figures.showAdapter(session.engine.adapter);
      picture.show(session && (() => session.engine.blocks));
    },
    follow(generation, seed) {
      let lastFigures = 0;
      let frame = requestAnimationFrame(tick);
      figures.showSeed(seed);
      function tick(now: number): void {
        picture.update();
        if (now - lastFigures >= figuresInterval) {
          lastFigures = now;
          figures.update(generation.stats());
        }
        frame = requestAnimationFrame(tick);
      }
      return () => {
        cancelAnimationFrame(frame);
        picture.update();
        figures.update(generation.stats());
      };
    },
  };
}
