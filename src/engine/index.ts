/** `pagewise/engine`: language models of the Llama family on Pagewise's attention. */
export { type ModelConfig, readModelConfig } from './config.ts';
export { Engine } from './engine.ts';
export type { EngineOptions } from './engine-options.ts';
export { type ByteSource, type FileContent, filesFrom, filesFromUrl, type ModelFiles } from './files.ts';
export type { GenerationDefaults } from './generation-config.ts';
export type { TextStream, Tokenizer, Vocabulary } from './tokenizer.ts';
export type * from './types.ts';
