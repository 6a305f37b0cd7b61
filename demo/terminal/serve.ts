/** `npm run serve` in Deno. */
import { fileURLToPath } from 'node:url';
import { runServeProgram } from './serve-program.ts';

const path = (relative: string) => fileURLToPath(new URL(relative, import.meta.url));
await runServeProgram({ defaultModel: path('../model'), tunings: path('../../node_modules/.cache/pagewise/tunings') });
