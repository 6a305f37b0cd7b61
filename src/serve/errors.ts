/** Errors as OpenAI's API tells them. */
import {
  BlocksExhaustedError,
  CapacityExceededError,
  ChatTemplateError,
  ConstraintError,
  ContextLengthError,
  DeviceLostError,
  EngineBusyError,
  InvalidArgumentError,
  ModelFileError,
  PagewiseError,
} from '../errors.ts';

/** The facts of an answer that refuses. */
export interface Refusal {
  readonly message: string;
  /** The field of the request that is wrong. */
  readonly param?: string;
  readonly code?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** Ends a request with a status; the handler makes the answer of it, so that nobody outside sees it. */
export class ApiError extends PagewiseError {
  override readonly name = 'ApiError';
  constructor(
    readonly status: number,
    readonly refusal: Refusal,
  ) {
    super(refusal.message);
  }
}

/** The body that OpenAI's clients read: `{ error: { message, type, param, code } }`. */
export interface ErrorBody {
  readonly error: { readonly message: string; readonly type: string; readonly param: string | null; readonly code: string | null };
}

const retry = { 'retry-after': '1' };

/** Seconds of `Retry-After` are 1: what is waited for is a step's room, not a restart. */
export function tooBusy(message: string, code: string): ApiError {
  return new ApiError(503, { message, code, headers: retry });
}

/** What to answer for an error. @param promptParam the field that the prompt came in */
export function toApiError(error: unknown, promptParam: string): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof EngineBusyError) return tooBusy(error.message, 'engine_busy');
  if (error instanceof ContextLengthError || error instanceof BlocksExhaustedError || error instanceof CapacityExceededError)
    return new ApiError(400, { message: error.message, param: promptParam, code: 'context_length_exceeded' });
  if (error instanceof ChatTemplateError) return new ApiError(400, { message: error.message, param: 'messages', code: 'chat_template' });
  if (error instanceof InvalidArgumentError) {
    const param = parameterOf(error.argument);
    const message = param === undefined ? error.message : error.message.replace(/^\w+/, param);
    return new ApiError(400, { message, param: param ?? promptParam, code: 'invalid_value' });
  }
  if (error instanceof ConstraintError)
    return new ApiError(400, { message: error.message, param: 'response_format', code: 'invalid_schema' });
  if (error instanceof ModelFileError) return new ApiError(400, { message: error.message, param: promptParam, code: 'no_tokenizer' });
  if (error instanceof DeviceLostError) return new ApiError(500, { message: error.message, code: 'device_lost' });
  return new ApiError(500, { message: 'The server failed to answer. Its log says why.', code: 'internal_error' });
}

export function errorBody({ status, refusal: { message, param, code } }: ApiError): ErrorBody {
  const type = status === 404 ? 'not_found_error' : status < 500 ? 'invalid_request_error' : 'server_error';
  return { error: { message, type, param: param ?? null, code: code ?? null } };
}

export function errorResponse(error: ApiError): Response {
  return Response.json(errorBody(error), { status: error.status, headers: error.refusal.headers });
}

/** The engine's names of options, as the API has them; undefined: the prompt's. */
function parameterOf(argument: string): string | undefined {
  const option = /^[a-z]\w*/i.exec(argument)?.[0] ?? '';
  if (option === 'prompt' || argument.startsWith('token id')) return undefined;
  return renamed[option] ?? option.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

const renamed: Readonly<Record<string, string>> = { stopTokens: 'stop_token_ids' };
