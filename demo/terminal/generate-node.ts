/** The same program in Node, on Dawn from the npm package `webgpu`. It runs bundled, in the repository's root. */
import { resolve } from 'node:path';
import { env } from 'node:process';
import { create, globals } from 'webgpu';
import { runProgram } from './program.ts';

Object.assign(globalThis, globals);

/** `gpu` is kept for as long as the process: Dawn's instance goes when it is collected. */
const toggles = env.PAGEWISE_DAWN_TOGGLES;
const gpu = create(toggles ? [`enable-dawn-features=${toggles}`] : []);
await runProgram({ gpu, defaultModel: resolve('demo/model'), tunings: resolve('node_modules/.cache/pagewise/tunings') });
