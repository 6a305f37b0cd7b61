/** `POST /v1/chat/completions`. */
import type { ChatMessage } from './chat-template.ts';
import { encodeConversation } from './conversation.ts';
import { ApiError } from './errors.ts';
import { eventResponse } from './events.ts';
import { chatLogprobs } from './logprobs.ts';
import { constraintOf } from './response-format.ts';
import { countUsage, type RunningRequest, startRequest, usageOf } from './running.ts';
import { generateOptions } from './sampling.ts';
import { type ChatBody, readChatBody } from './schema.ts';
import type { ServerContext } from './server.ts';

const noTemplate =
  'This model has no chat template, so a conversation cannot become a prompt. Use /v1/completions, or start the server with a template ' +
  '(--chat-template FILE, or the option chatTemplate).';
const noTokenizer = 'This model has no tokenizer.json, so a conversation cannot become tokens. Use /v1/completions with token ids.';

export async function createChatCompletion(context: ServerContext, json: unknown, signal: AbortSignal): Promise<Response> {
  const body = readChatBody(json);
  context.checkModel(body.model);
  const ids = promptIds(context, body);
  const sampling = generateOptions({ ...body, max_tokens: body.max_completion_tokens ?? body.max_tokens });
  const options = body.logprobs ? { ...sampling, logprobs: body.top_logprobs ?? 0 } : sampling;
  const constraint = await constraintOf(body.response_format, context.constraints);
  const request = startRequest(context.engine, context.metrics, [ids], options, signal, constraint);
  const head = { id: `chatcmpl-${crypto.randomUUID()}`, created: Math.floor(Date.now() / 1000), model: context.modelName };
  if (body.stream) return eventResponse(events(context, body, request, head), request.abort, context.onError);
  return Response.json(await whole(context, body, request, head));
}

function promptIds({ chatTemplate, engine: { tokenizer } }: ServerContext, body: ChatBody): readonly number[] {
  if (!chatTemplate) throw new ApiError(400, { message: noTemplate, code: 'no_chat_template' });
  if (!tokenizer) throw new ApiError(400, { message: noTokenizer, code: 'no_tokenizer' });
  return encodeConversation(tokenizer, chatTemplate, body.messages.map(plainMessage), {
    addGenerationPrompt: body.add_generation_prompt ?? true,
    variables: body.chat_template_kwargs ?? {},
  });
}

function plainMessage({ role, content, name }: ChatBody['messages'][number]): ChatMessage {
  const text = typeof content === 'string' ? content : content.map((part) => part.text).join('\n');
  return { role, content: text, ...(name ? { name } : {}) };
}

async function whole({ engine }: ServerContext, body: ChatBody, request: RunningRequest, head: object): Promise<object> {
  for await (const _ of request.chunks());
  const [result] = await request.results();
  const choices = result.choices.map(({ index, text, ids, finishReason, logprobs }) => ({
    index,
    message: { role: 'assistant', content: text, refusal: null },
    logprobs: logprobs ? chatLogprobs(engine.tokenizer, logprobs) : null,
    finish_reason: finishReason,
    ...(body.return_token_ids && { token_ids: ids }),
  }));
  const prompt = body.return_token_ids && { prompt_token_ids: result.promptIds };
  return { ...head, object: 'chat.completion', ...prompt, choices, usage: usageOf([result]) };
}

async function* events(
  { engine }: ServerContext,
  { stream_options: options, return_token_ids: returnIds }: ChatBody,
  request: RunningRequest,
  head: object,
): AsyncGenerator<object, void> {
  const written = new Map<number, number>();
  const event = (choice: object, usage: object | undefined) => ({ ...head, object: 'chat.completion.chunk', choices: [choice], ...usage });
  const usage = (choice: number) => {
    if (options?.continuous_usage_stats) return { usage: countUsage(request.promptIds[0].length, written.get(choice) ?? 0) };
    return options?.include_usage ? { usage: null } : undefined;
  };
  for await (const { choice: index, text, ids, logprobs, finishReason } of request.chunks()) {
    if (!written.has(index)) {
      // With the first token, not before: whoever measures the time to the first piece means that one.
      const prompt = returnIds && { prompt_token_ids: request.promptIds[0] };
      const opening = { index, delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null };
      yield { ...event(opening, usage(index)), ...prompt };
    }
    written.set(index, (written.get(index) ?? 0) + ids.length);
    const choice = {
      index,
      delta: text === '' && ids.length === 0 ? {} : { content: text },
      logprobs: logprobs ? chatLogprobs(engine.tokenizer, logprobs) : null,
      finish_reason: finishReason ?? null,
      ...(returnIds && { token_ids: ids }),
    };
    yield event(choice, usage(index));
  }
  if (options?.include_usage) {
    yield { ...head, object: 'chat.completion.chunk', choices: [], usage: usageOf(await request.results()) };
  }
}
