/** The same server in Node, on Dawn from the npm package `webgpu`. It runs bundled, in the repository's root. */
import { resolve } from 'node:path';
import { openDawn } from './dawn.ts';
import { runServeProgram } from './serve-program.ts';

const gpu = openDawn();
await runServeProgram({ gpu, defaultModel: resolve('demo/model'), tunings: resolve('node_modules/.cache/pagewise/tunings') });
