import type { Constraints } from '../constrained/index.ts';
import type { Engine, Generation } from '../engine/index.ts';
import type { ChatTemplate } from './chat-template.ts';

/** What the server asks of an engine. An `Engine` has it, and so has anything that hands requests on to one. */
export interface ServingEngine extends Pick<Engine, 'tokenizer' | 'maxSequenceLength' | 'maxSequences' | 'maxWaiting' | 'stats'> {
  generate(...parameters: Parameters<Engine['generate']>): Generation;
  /** Resolves when nothing can be generated any more; `/health` says so then. */
  readonly lost?: Promise<unknown>;
}

/** How to serve. */
export interface HandlerOptions {
  /** The model's name in answers and in `/v1/models`. Requests may name it, or `default`, or nothing. */
  readonly modelName: string;
  /** Makes a prompt of a conversation; without it `/v1/chat/completions` is refused. `readChatTemplate` finds the model's own. */
  readonly chatTemplate?: ChatTemplate;
  /** Holds answers to a JSON schema (`response_format`): `openConstraints` of `pagewise/constrained`. Without it such requests are refused. */
  readonly constraints?: Pick<Constraints, 'jsonSchema'>;
  /** Origins whose pages may ask, `*` for all; default: none but the server's own. */
  readonly cors?: '*' | readonly string[];
  /** Most bytes of a request; default 4 MiB. */
  readonly maxBodyBytes?: number;
  /** A path in front of all others, without a slash at its end; default none. */
  readonly basePath?: string;
  /** From its abort on, what runs is finished, new requests are refused with 503, and `/health` says so. */
  readonly closing?: AbortSignal;
  /** Hears of errors that are not the client's: the answer says less of them. */
  readonly onError?: (error: unknown) => void;
}

/** Answers a request; never rejects. */
export type Handler = (request: Request) => Promise<Response>;
