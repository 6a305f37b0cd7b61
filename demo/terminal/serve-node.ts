/** The same server in Node, on Dawn from the npm package `webgpu`. It runs bundled, in the repository's root. */
import { resolve } from 'node:path';
import { create, globals } from 'webgpu';
import { runServeProgram } from './serve-program.ts';

Object.assign(globalThis, globals);

/** Kept in a variable for as long as the process: Dawn's instance goes when this is collected. */
const gpu = create([]);
await runServeProgram({ gpu, defaultModel: resolve('demo/model'), tunings: resolve('node_modules/.cache/pagewise/tunings') });
