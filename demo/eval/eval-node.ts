/** The same program in Node, on Dawn from the npm package `webgpu`. It runs bundled, in the repository's root. */
import { resolve } from 'node:path';
import { openDawn } from '../terminal/dawn.ts';
import { runEvalProgram } from './program.ts';

const gpu = openDawn();
await runEvalProgram({ gpu, defaultModel: resolve('demo/model'), tunings: resolve('node_modules/.cache/pagewise/tunings') });
