/** `npm run generate` in Deno. */
import { fileURLToPath } from 'node:url';
import { runProgram } from './program.ts';

const path = (relative: string) => fileURLToPath(new URL(relative, import.meta.url));
await runProgram({ defaultModel: path('../model'), tunings: path('../../node_modules/.cache/pagewise/tunings') });
