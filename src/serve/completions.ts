/** `POST /v1/completions`. */
import { eventResponse } from './events.ts';
import { completionLogprobs } from './logprobs.ts';
import { constraintOf } from './response-format.ts';
import { type ChoiceChunk, countUsage, type RunningRequest, startRequest, usageOf } from './running.ts';
import { generateOptions } from './sampling.ts';
import { type CompletionBody, promptsOf, readCompletionBody } from './schema.ts';
import type { ServerContext } from './server.ts';

/** OpenAI's default, and vLLM's. */
const defaultMaxTokens = 16;

export async function createCompletion(context: ServerContext, json: unknown, signal: AbortSignal): Promise<Response> {
  const body = readCompletionBody(json);
  context.checkModel(body.model);
  const prompts = promptsOf(body);
  const options = { maxTokens: defaultMaxTokens, ...generateOptions(body), ...(body.logprobs == null ? {} : { logprobs: body.logprobs }) };
  const constraint = await constraintOf(body.response_format, context.constraints);
  const request = startRequest(context.engine, context.metrics, prompts, options, signal, constraint);
  const answer = new CompletionAnswer(context, body, request, prompts);
  return body.stream ? eventResponse(answer.events(), request.abort, context.onError) : Response.json(await answer.whole());
}

/** One request's answer, whole or piece by piece. */
class CompletionAnswer {
  readonly #context: ServerContext;
  readonly #body: CompletionBody;
  readonly #request: RunningRequest;
  readonly #prompts: readonly (string | readonly number[])[];
  readonly #head: object;

  constructor(context: ServerContext, body: CompletionBody, request: RunningRequest, prompts: readonly (string | readonly number[])[]) {
    this.#context = context;
    this.#body = body;
    this.#request = request;
    this.#prompts = prompts;
    this.#head = {
      id: `cmpl-${crypto.randomUUID()}`,
      object: 'text_completion',
      created: Math.floor(Date.now() / 1000),
      model: context.modelName,
    };
  }

  async whole(): Promise<object> {
    for await (const _ of this.#request.chunks());
    const results = await this.#request.results();
    const samples = this.#body.n ?? 1;
    const choices = results.flatMap(({ choices, promptIds }, prompt) =>
      choices.map(({ index, text, ids, finishReason, logprobs }) => ({
        index: prompt * samples + index,
        text: this.#echo(prompt) + text,
        logprobs: logprobs ? completionLogprobs(this.#context.engine.tokenizer, logprobs, 0) : null,
        finish_reason: finishReason,
        ...(this.#body.return_token_ids && { token_ids: ids, prompt_token_ids: promptIds }),
      })),
    );
    return { ...this.#head, choices, usage: usageOf(results) };
  }

  async *events(): AsyncGenerator<object, void> {
    const { stream_options: streamOptions } = this.#body;
    const state = new Map<number, ChoiceState>();
    for await (const chunk of this.#request.chunks()) {
      const choice = state.get(chunk.choice) ?? { first: true, offset: 0, tokens: 0 };
      state.set(chunk.choice, choice);
      yield { ...this.#head, choices: [this.#choice(chunk, choice)], ...this.#usage(chunk, choice) };
    }
    if (streamOptions?.include_usage) yield { ...this.#head, choices: [], usage: usageOf(await this.#request.results()) };
  }

  #choice({ choice: index, prompt, text, ids, logprobs, finishReason }: ChoiceChunk, state: ChoiceState): object {
    const { tokenizer } = this.#context.engine;
    const first = state.first;
    const named = logprobs ? completionLogprobs(tokenizer, logprobs, state.offset) : null;
    const choice = {
      index,
      text: first ? this.#echo(prompt) + text : text,
      logprobs: named,
      finish_reason: finishReason ?? null,
      ...(this.#body.return_token_ids && { token_ids: ids, ...(first && { prompt_token_ids: this.#request.promptIds[prompt] }) }),
    };
    state.first = false;
    // Not by the text, of which some may be held back until it is certain.
    for (const token of named?.tokens ?? []) state.offset += token.length;
    state.tokens += ids.length;
    return choice;
  }

  #usage({ prompt }: ChoiceChunk, { tokens }: ChoiceState): object {
    const { stream_options: options } = this.#body;
    if (options?.continuous_usage_stats) return { usage: countUsage(this.#request.promptIds[prompt].length, tokens) };
    return options?.include_usage ? { usage: null } : {};
  }

  #echo(prompt: number): string {
    if (!this.#body.echo) return '';
    const asked = this.#prompts[prompt];
    return typeof asked === 'string' ? asked : (this.#context.engine.tokenizer?.decode(asked) ?? '');
  }
}

interface ChoiceState {
  first: boolean;
  /** Where the next token begins: the length of those given out. */
  offset: number;
  tokens: number;
}
