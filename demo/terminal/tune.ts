/** `npm run tune` in Deno. */
import { fileURLToPath } from 'node:url';
import { runTuneProgram } from './tune-program.ts';

const path = (relative: string) => fileURLToPath(new URL(relative, import.meta.url));
await runTuneProgram({ defaultModel: path('../model'), tunings: path('../../node_modules/.cache/pagewise/tunings') });
