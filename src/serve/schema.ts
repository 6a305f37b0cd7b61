/** The bodies of requests: what is allowed, what is refused by name, and what nobody asks for is. */
import * as v from 'valibot';
import { ApiError } from './errors.ts';

const count = v.pipe(v.number(), v.integer(), v.minValue(1));
const index = v.pipe(v.number(), v.integer(), v.minValue(0));
const within = (least: number, most: number) => v.pipe(v.number(), v.minValue(least), v.maxValue(most));
const text = v.pipe(v.string(), v.minLength(1));

/** Most samples of one prompt. */
const maxSamples = 128;

/** Fields of both kinds of completions: OpenAI's, and those that vLLM added. */
const common = {
  model: v.nullish(v.string()),
  stream: v.nullish(v.boolean()),
  stream_options: v.nullish(v.strictObject({ include_usage: v.nullish(v.boolean()), continuous_usage_stats: v.nullish(v.boolean()) })),
  max_tokens: v.nullish(count),
  min_tokens: v.nullish(index),
  temperature: v.nullish(v.pipe(v.number(), v.finite(), v.minValue(0))),
  top_p: v.nullish(v.pipe(within(0, 1), v.gtValue(0))),
  top_k: v.nullish(v.pipe(v.number(), v.integer(), v.minValue(-1))),
  min_p: v.nullish(within(0, 1)),
  repetition_penalty: v.nullish(v.pipe(v.number(), v.finite(), v.gtValue(0))),
  presence_penalty: v.nullish(within(-2, 2)),
  frequency_penalty: v.nullish(within(-2, 2)),
  logit_bias: v.nullish(v.record(v.pipe(v.string(), v.regex(/^\d+$/, 'the keys must be token ids')), within(-100, 100))),
  seed: v.nullish(v.pipe(v.number(), v.safeInteger())),
  stop: v.nullish(v.union([text, v.array(text)], 'it must be a text, or texts, none of them empty')),
  stop_token_ids: v.nullish(v.array(index)),
  ignore_eos: v.nullish(v.boolean()),
  n: v.nullish(v.pipe(count, v.maxValue(maxSamples))),
  priority: v.nullish(v.pipe(v.number(), v.safeInteger())),
  cache_salt: v.nullish(text),
  return_token_ids: v.nullish(v.boolean()),
  response_format: v.nullish(
    v.variant('type', [
      v.strictObject({ type: v.literal('text') }),
      v.strictObject({ type: v.literal('json_object') }),
      v.strictObject({
        type: v.literal('json_schema'),
        json_schema: v.strictObject({
          ...{ name: v.nullish(v.string()), description: v.nullish(v.string()), strict: v.nullish(v.boolean()) },
          schema: v.record(v.string(), v.unknown()),
        }),
      }),
    ]),
  ),
};

const tokens = v.pipe(v.array(index), v.minLength(1));
const promptSchema = v.union(
  [v.string(), tokens, v.pipe(v.array(v.string()), v.minLength(1)), v.pipe(v.array(tokens), v.minLength(1))],
  'it must be a text, texts, token ids, or arrays of token ids, and not empty',
);

const completionSchema = v.strictObject({
  ...common,
  prompt: promptSchema,
  echo: v.nullish(v.boolean()),
  logprobs: v.nullish(v.pipe(index, v.maxValue(20))),
  best_of: v.nullish(count),
});

const part = v.strictObject({ type: v.literal('text', 'only parts of type "text" are supported'), text: v.string() });
const message = v.strictObject({
  role: v.picklist(['system', 'developer', 'user', 'assistant', 'tool']),
  content: v.union([v.string(), v.pipe(v.array(part), v.minLength(1))], 'it must be a text, or parts of type "text"'),
  name: v.nullish(v.string()),
});

const chatSchema = v.strictObject({
  ...common,
  messages: v.pipe(v.array(message), v.minLength(1)),
  max_completion_tokens: v.nullish(count),
  logprobs: v.nullish(v.boolean()),
  top_logprobs: v.nullish(v.pipe(index, v.maxValue(20))),
  add_generation_prompt: v.nullish(v.boolean()),
  chat_template_kwargs: v.nullish(v.record(v.string(), v.unknown())),
});

export type CommonBody = Omit<v.InferOutput<typeof completionSchema>, 'prompt' | 'echo' | 'logprobs' | 'best_of'>;
export type CompletionBody = v.InferOutput<typeof completionSchema>;
export type ChatBody = v.InferOutput<typeof chatSchema>;

/** Fields that clients send and that change nothing here. */
const ignored = new Set(['user', 'metadata', 'store', 'service_tier', 'safety_identifier', 'prompt_cache_key', 'prompt_cache_retention']);

const isEmpty = (value: unknown): boolean => Array.isArray(value) && value.length === 0;

/** Fields that would change the answer and are not implemented: allowed only where they ask for what happens anyway. */
const unsupported: Readonly<Record<string, (value: unknown) => boolean>> = {
  suffix: (value) => value === '',
  tools: isEmpty,
  tool_choice: (value) => value === 'none' || value === 'auto',
  functions: isEmpty,
  function_call: (value) => value === 'none' || value === 'auto',
  parallel_tool_calls: () => true,
  modalities: (value) => Array.isArray(value) && value.every((one) => one === 'text'),
  audio: () => false,
  prediction: () => false,
  reasoning_effort: () => false,
  web_search_options: () => false,
  use_beam_search: (value) => value === false,
  prompt_logprobs: () => false,
  skip_special_tokens: (value) => value === true,
  spaces_between_special_tokens: (value) => value === true,
  include_stop_str_in_output: (value) => value === false,
  continue_final_message: (value) => value === false,
  chat_template: () => false,
};

/** @throws {ApiError} 400 that names the field. */
export function readCompletionBody(json: unknown): CompletionBody {
  const body = read(completionSchema, json);
  if (body.best_of && body.best_of !== (body.n ?? 1))
    refuse('best_of', 'is supported only where it equals n: ask for n samples and choose among them', 'unsupported_parameter');
  if (body.echo && typeof body.logprobs === 'number')
    refuse('echo', 'together with logprobs is not supported: the log probabilities of a prompt are not computed', 'unsupported_parameter');
  return body;
}

/** @throws {ApiError} 400 that names the field. */
export function readChatBody(json: unknown): ChatBody {
  const body = read(chatSchema, json);
  if (body.top_logprobs && !body.logprobs) refuse('top_logprobs', 'needs "logprobs": true');
  return body;
}

/** The prompts of a completion, one or more. */
export function promptsOf({ prompt }: CompletionBody): readonly (string | readonly number[])[] {
  if (typeof prompt === 'string') return [prompt];
  return typeof prompt[0] === 'number' ? [prompt as number[]] : (prompt as (string | number[])[]);
}

function read<const Schema extends v.GenericSchema>(schema: Schema, json: unknown): v.InferOutput<Schema> {
  if (typeof json !== 'object' || json === null || Array.isArray(json))
    throw new ApiError(400, { message: 'The body must be a JSON object.', code: 'invalid_body' });
  const result = v.safeParse(schema, withoutIgnored(json), { abortEarly: true });
  if (result.success) return result.output;
  const [issue] = result.issues;
  const param = v.getDotPath(issue) ?? '';
  if (issue.expected === 'never') return refuse(param, 'is not a parameter of this API', 'unknown_parameter');
  if (issue.received === 'undefined') return refuse(param, 'is missing', 'missing_parameter');
  const problem = issue.message.replace(/^Invalid (\w+): /, '');
  return refuse(param, `is not valid: ${problem.charAt(0).toLowerCase()}${problem.slice(1)}`, 'invalid_value');
}

function withoutIgnored(json: object): Record<string, unknown> {
  const kept: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(json)) {
    const harmless = Object.hasOwn(unsupported, name) ? unsupported[name] : undefined;
    if (ignored.has(name) || (harmless && (value === null || harmless(value)))) continue;
    if (harmless) refuse(name, 'is not supported by this server: leave it out', 'unsupported_parameter');
    kept[name] = value;
  }
  return kept;
}

function refuse(param: string, problem: string, code = 'invalid_value'): never {
  throw new ApiError(400, { message: `"${param}" ${problem}.`, param, code });
}
