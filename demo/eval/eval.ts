/** `npm run eval` in Deno. */
import { fileURLToPath } from 'node:url';
import { runEvalProgram } from './program.ts';

const path = (relative: string) => fileURLToPath(new URL(relative, import.meta.url));
await runEvalProgram({ defaultModel: path('../model'), tunings: path('../../node_modules/.cache/pagewise/tunings') });
