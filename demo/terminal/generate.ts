/** `npm run generate` in Deno. */
import { fileURLToPath } from 'node:url';
import { runProgram } from './program.ts';

await runProgram({ defaultModel: fileURLToPath(new URL('../model', import.meta.url)) });
