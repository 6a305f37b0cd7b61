/** The same program in Node, on Dawn from the npm package `webgpu`. It runs bundled, in the repository's root. */
import { resolve } from 'node:path';
import { create, globals } from 'webgpu';
import { runTuneProgram } from './tune-program.ts';

Object.assign(globalThis, globals);

/** Kept in a variable for as long as the process: Dawn's instance goes when this is collected. Timestamps are rounded to 0.1 ms otherwise. */
const gpu = create(['disable-dawn-features=timestamp_quantization']);
await runTuneProgram({ gpu, defaultModel: resolve('demo/model'), tunings: resolve('node_modules/.cache/pagewise/tunings') });
