/** `npm run serve` in Deno. */
import { fileURLToPath } from 'node:url';
import { listenInDeno } from './listen.ts';
import { runServeProgram } from './serve-program.ts';

const path = (relative: string) => fileURLToPath(new URL(relative, import.meta.url));
await runServeProgram({
  defaultModel: path('../model'),
  defaultName: 'pagewise-stories',
  tunings: path('../../node_modules/.cache/pagewise/tunings'),
  listen: listenInDeno,
});
