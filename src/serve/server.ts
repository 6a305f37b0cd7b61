import type { ChatTemplate } from './chat-template.ts';
import { ApiError } from './errors.ts';
import type { Metrics } from './metrics.ts';
import type { HandlerOptions, ServingEngine } from './types.ts';

/** What the answers of one handler share. */
export interface ServerContext {
  readonly engine: ServingEngine;
  readonly metrics: Metrics;
  readonly modelName: string;
  readonly chatTemplate: ChatTemplate | undefined;
  readonly constraints: HandlerOptions['constraints'];
  /** @throws {ApiError} 404 for a model that is not served. */
  checkModel(name: string | null | undefined): void;
  onError(error: unknown): void;
}

export function modelChecker(modelName: string): ServerContext['checkModel'] {
  return (name) => {
    if (name === undefined || name === null || name === modelName || name === 'default') return;
    const message = `The model "${name}" does not exist. This server has "${modelName}", also known as "default".`;
    throw new ApiError(404, { message, param: 'model', code: 'model_not_found' });
  };
}
