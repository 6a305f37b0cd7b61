/** The same program in Node, on Dawn from the npm package `webgpu`. It runs bundled, in the repository's root. */
import { resolve } from 'node:path';
import { openDawn } from './dawn.ts';
import { runTuneProgram } from './tune-program.ts';

// Timestamps are rounded to 0.1 ms otherwise.
const gpu = openDawn(['disable-dawn-features=timestamp_quantization']);
await runTuneProgram({ gpu, defaultModel: resolve('demo/model'), tunings: resolve('node_modules/.cache/pagewise/tunings') });
