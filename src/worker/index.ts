/** `pagewise/worker`: an engine in a dedicated worker, so that a page never waits for it. */
export { createWorkerEngine, type WorkerEngine, type WorkerEngineOptions } from './client.ts';
export type { WorkerLike } from './link.ts';
export type { WorkerGenerateOptions } from './port-generation.ts';
export type { BlockSnapshot, WorkerFiles } from './protocol.ts';
export { type ServedEngine, type ServeOptions, type ServeScope, serveEngine } from './serve.ts';
