/** `pagewise/serve`: an OpenAI-compatible server over an engine, as one function of the Fetch API. */
export {
  type ChatMessage,
  type ChatTemplate,
  createChatTemplate,
  type RenderOptions,
  readChatTemplate,
  type TemplateTokens,
} from './chat-template.ts';
export { createHandler } from './handler.ts';
export type { Handler, HandlerOptions, ServingEngine } from './types.ts';
