/** The same program in Node, on Dawn from the npm package `webgpu`. It runs bundled, in the repository's root. */
import { resolve } from 'node:path';
import { env } from 'node:process';
import { create, globals } from 'webgpu';
import { runTuneProgram } from './tune-program.ts';

Object.assign(globalThis, globals);

/** `gpu` is kept for as long as the process: Dawn's instance goes when it is collected. Timestamps are rounded to 0.1 ms otherwise. */
const toggles = env.PAGEWISE_DAWN_TOGGLES;
const gpu = create([...(toggles ? [`enable-dawn-features=${toggles}`] : []), 'disable-dawn-features=timestamp_quantization']);
await runTuneProgram({ gpu, defaultModel: resolve('demo/model'), tunings: resolve('node_modules/.cache/pagewise/tunings') });
