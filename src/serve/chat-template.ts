/**
 * Makes a prompt of a conversation, by the Jinja template that comes with a model.
 */
import { Template } from '@huggingface/jinja';
import { type ModelFiles, openIfPresent, readJsonIfPresent } from '../engine/files.ts';
import { isRecord } from '../engine/json.ts';
import { ChatTemplateError } from '../errors.ts';

/** What somebody said. */
export interface ChatMessage {
  readonly role: string;
  readonly content: string;
  readonly name?: string;
}

export interface RenderOptions {
  /** End with what begins the assistant's answer; default true. */
  readonly addGenerationPrompt?: boolean;
  /** More variables of the template's, such as `enable_thinking`. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

/** A template that was parsed. */
export interface ChatTemplate {
  /** The prompt, special tokens spelled out. @throws {ChatTemplateError} when the template refuses the messages */
  render(messages: readonly ChatMessage[], options?: RenderOptions): string;
}

/** Special tokens that templates name. */
export interface TemplateTokens {
  readonly bosToken?: string;
  readonly eosToken?: string;
}

/**
 * @param source the Jinja text.
 * @throws {ChatTemplateError} when it cannot be parsed.
 */
export function createChatTemplate(source: string, { bosToken = '', eosToken = '' }: TemplateTokens = {}): ChatTemplate {
  const template = attempt('does not parse', () => new Template(source));
  return {
    render: (messages, { addGenerationPrompt = true, variables = {} } = {}) =>
      attempt('refuses these messages', () =>
        template.render({
          ...variables,
          ...{ messages, bos_token: bosToken, eos_token: eosToken, add_generation_prompt: addGenerationPrompt },
        }),
      ),
  };
}

/**
 * The template of a model: chat_template.jinja, else `chat_template` of tokenizer_config.json, of several the one named `default`.
 *
 * @param source instead of what the files have; the special tokens come from the files all the same.
 * @returns undefined when the model has none: it was not trained to chat.
 * @throws {ModelFileError} {ChatTemplateError} for files that cannot be read or parsed.
 */
export async function readChatTemplate(files: ModelFiles, source?: string): Promise<ChatTemplate | undefined> {
  const json = await readJsonIfPresent(files, 'tokenizer_config.json');
  const config = isRecord(json) ? json : {};
  const text = source ?? (await readText(files, 'chat_template.jinja')) ?? named(config.chat_template);
  return text === undefined
    ? undefined
    : createChatTemplate(text, { bosToken: token(config.bos_token), eosToken: token(config.eos_token) });
}

async function readText(files: ModelFiles, name: string): Promise<string | undefined> {
  const file = await openIfPresent(files, name);
  try {
    return file && new TextDecoder().decode(await file.read(0, file.size));
  } finally {
    file?.close?.();
  }
}

function named(templates: unknown): string | undefined {
  if (typeof templates === 'string') return templates;
  if (!Array.isArray(templates)) return undefined;
  const found: unknown = templates.find((one) => isRecord(one) && one.name === 'default') ?? templates[0];
  return isRecord(found) && typeof found.template === 'string' ? found.template : undefined;
}

function token(value: unknown): string | undefined {
  const text = isRecord(value) ? value.content : value;
  return typeof text === 'string' ? text : undefined;
}

function attempt<T>(problem: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw new ChatTemplateError(`${problem}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
}
