/**
 * Text to token ids and back, by a Hugging Face `tokenizer.json`.
 *
 * The pieces, merges and decoders are those of `@huggingface/tokenizers`; here are the begin token, the safe handling of special
 * tokens, and streaming.
 */
import { Tokenizer as Core } from '@huggingface/tokenizers';
import { InvalidArgumentError, ModelFileError } from '../errors.ts';
import { isRecord } from './json.ts';

export interface EncodeOptions {
  /** Put the begin token in front, unless it is there already. Default: as the tokenizer's files say. */
  readonly addBos?: boolean;
  /** Read special tokens such as <|endoftext|> as tokens, not as text. Default false, so that a prompt cannot forge them. */
  readonly parseSpecial?: boolean;
}

export interface DecodeOptions {
  /** Leave out special tokens. Default true. */
  readonly skipSpecial?: boolean;
}

/** How a vocabulary spells its tokens; what a grammar has to know. */
export interface Vocabulary {
  /** By id; empty for special and added tokens, which no text becomes, and for ids that no token has. */
  readonly tokens: readonly string[];
  /** `byte-level`: each byte is a character, as in GPT-2; `byte-fallback`: text with U+2581 for a space, and <0xE2> for a byte; `raw`: as it is. */
  readonly spelling: 'byte-level' | 'byte-fallback' | 'raw';
}

/** Made by `createTokenizer`; holds no state between calls. */
export interface Tokenizer {
  /** Put in front of prompts; undefined when the model has none. */
  readonly bosTokenId: number | undefined;
  /** Texts of special tokens, as the vocabulary spells them. */
  readonly specialTokens: readonly string[];
  /**
   * Token ids of a text. End tokens are never added. A lone surrogate counts as U+FFFD.
   *
   * @throws {InvalidArgumentError} when `addBos` is asked for and there is no begin token.
   */
  encode(text: string, options?: EncodeOptions): number[];
  /** Text of token ids. Ids that the vocabulary lacks give no text; bytes that are not UTF-8 give U+FFFD. */
  decode(ids: readonly number[], options?: DecodeOptions): string;
  /** Decodes one sequence token by token. */
  stream(): TextStream;
  /** The id of a token as the vocabulary spells it, special or not. */
  idOf(token: string): number | undefined;
  /** All tokens as they are spelled: a new array of the vocabulary's size each time. */
  vocabulary(): Vocabulary;
}

/** Text as it becomes certain. All that `push` and `flush` give, joined, is `decode` of all ids. */
export interface TextStream {
  /** The text that this token settles, perhaps none: a token may hold a part of a character only. Special tokens give none. */
  push(id: number): string;
  /** What was held back, at the end. The stream is then as new. */
  flush(): string;
}

/** Token ids that config.json names. */
export interface NamedTokens {
  readonly bosTokenId: number | undefined;
  readonly eosTokenIds: readonly number[];
}

const file = 'tokenizer.json';

/**
 * @param tokenizerJson the parsed tokenizer.json.
 * @param tokenizerConfig the parsed tokenizer_config.json, or undefined when the model has none. Its `bos_token` wins over `bosTokenId`; its
 * `add_bos_token` says whether prompts start with it, and where that is absent the post-processor of tokenizer.json does.
 * @throws {ModelFileError} when the files are malformed, of an unknown kind, or lack one of the named tokens.
 */
export function createTokenizer(tokenizerJson: unknown, tokenizerConfig: unknown, { bosTokenId, eosTokenIds }: NamedTokens): Tokenizer {
  const config = isRecord(tokenizerConfig) ? tokenizerConfig : {};
  const { core, textCore, special } = createCores(tokenizerJson, config);
  for (const id of [bosTokenId, ...eosTokenIds]) {
    if (id !== undefined && core.id_to_token(id) === undefined) {
      throw new ModelFileError(file, `has no token ${id}, which the model's config names. Are both files of the same model?`);
    }
  }
  const bos = ownBosToken(core, config) ?? bosTokenId;
  const addBosByDefault =
    typeof config.add_bos_token === 'boolean'
      ? config.add_bos_token && bos !== undefined
      : bos !== undefined && core.encode('').ids[0] === bos;

  const inVocabulary = (id: number): boolean => core.id_to_token(id) !== undefined;
  const isText = (id: number): boolean => inVocabulary(id) && !special.ids.has(id);
  // Tidying of spaces stays off whatever the config says: it would change text that a stream has given already, and is for BERT.
  const decodeAll = (ids: number[]): string => (ids.length === 0 ? '' : core.decode(ids, { clean_up_tokenization_spaces: false }));

  /** Encodes text in which nothing may become a special token, even where the vocabulary itself (a Unigram one) could spell it. */
  function encodeText(text: string): number[] {
    const { ids } = textCore.encode(text, { add_special_tokens: false });
    if (!ids.some((id) => special.ids.has(id) && id !== special.unknownId)) return ids;
    const starts = special.contents.map((content) => text.indexOf(content)).filter((start) => start >= 0);
    const cut = Math.min(...starts) + 1;
    if (cut >= text.length) return ids.filter((id) => !special.ids.has(id));
    return [...encodeText(text.slice(0, cut)), ...encodeText(text.slice(cut))];
  }

  return {
    bosTokenId: bos,
    specialTokens: special.contents,
    encode(text, { addBos = addBosByDefault, parseSpecial = false } = {}) {
      if (addBos && bos === undefined) throw new InvalidArgumentError('addBos', addBos, 'false: this tokenizer has no begin token');
      const ids = parseSpecial ? core.encode(text, { add_special_tokens: false }).ids : encodeText(text);
      return addBos && bos !== undefined && ids[0] !== bos ? [bos, ...ids] : ids;
    },
    decode: (ids, { skipSpecial = true } = {}) => decodeAll(ids.filter(skipSpecial ? isText : inVocabulary)),
    stream: () => textStream(decodeAll, isText),
    idOf: (token) => core.token_to_id(token),
    vocabulary: () => readVocabulary(core, tokenizerJson as TokenizerFile),
  };
}

/** What of tokenizer.json says how tokens are spelled. */
interface TokenizerFile {
  readonly decoder?: unknown;
  readonly added_tokens: readonly { readonly id: number }[];
}

function readVocabulary(core: Core, { decoder, added_tokens }: TokenizerFile): Vocabulary {
  const ids = core.get_vocab();
  const size = Math.max(...ids.values()) + 1;
  const tokens = Array<string>(size).fill('');
  for (const [token, id] of ids) tokens[id] = token;
  for (const { id } of added_tokens) tokens[id] = '';
  const steps = JSON.stringify(decoder ?? null);
  if (steps.includes('"ByteLevel"')) return { tokens, spelling: 'byte-level' };
  return { tokens, spelling: /"ByteFallback"|"Metaspace"|▁/.test(steps) ? 'byte-fallback' : 'raw' };
}

interface Cores {
  readonly core: Core;
  /** The same, but it sees no special tokens. */
  readonly textCore: Core;
  readonly special: {
    readonly ids: ReadonlySet<number>;
    readonly contents: readonly string[];
    /** Stands for what the vocabulary cannot spell. */
    readonly unknownId: number | undefined;
  };
}

function createCores(json: unknown, config: Record<string, unknown>): Cores {
  if (!isRecord(json) || !isRecord(json.model) || !Array.isArray(json.added_tokens)) {
    throw new ModelFileError(file, 'has no "model" or no "added_tokens". Get the file again.');
  }
  const extra: unknown[] = Array.isArray(config.additional_special_tokens) ? config.additional_special_tokens : [];
  const isSpecial = (token: unknown): boolean => isRecord(token) && (token.special === true || extra.includes(token.content));
  try {
    const core = new Core(json, config);
    // One vocabulary for both: the second is made around an empty one, then given the first's.
    const emptyModel = { type: 'BPE', vocab: {}, merges: [] };
    const textCore = new Core({ ...json, model: emptyModel, added_tokens: json.added_tokens.filter((token) => !isSpecial(token)) }, config);
    textCore.model = core.model;
    const contents = json.added_tokens.filter(isSpecial).map((token: { content: string }) => token.content);
    const ids = new Set(contents.map((content) => core.token_to_id(content)).filter((id) => id !== undefined));
    return { core, textCore, special: { ids, contents, unknownId: core.model?.unk_token_id } };
  } catch (error) {
    throw new ModelFileError(file, `cannot be used: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
}

function ownBosToken(core: Core, config: Record<string, unknown>): number | undefined {
  const token = isRecord(config.bos_token) ? config.bos_token.content : config.bos_token;
  return typeof token === 'string' ? core.token_to_id(token) : undefined;
}

/** Tokens kept when a sequence stays incomplete for long: a character has at most 4 bytes, a token at least 1. */
const resyncTokens = 4;
const maxWindowTokens = 16;

/**
 * Decodes a short window that slides over the sequence: the tokens of the last piece, as context (some decoders strip a space at the
 * start), and those after it. What the new ones add is given out, but for a U+FFFD at the very end, which may be half a character. So
 * each token costs the same however long the text. After the incremental detokenizer of vLLM.
 */
function textStream(decodeAll: (ids: number[]) => string, isText: (id: number) => boolean): TextStream {
  let window: number[] = [];
  /** How many of the window's tokens are context only. */
  let context = 0;
  /** How much of the window's text has been given out. */
  let given = 0;
  const settledLength = (text: string): number => (text.endsWith('\uFFFD') ? text.length - 1 : text.length);

  return {
    push(id) {
      if (!isText(id)) return '';
      window.push(id);
      const text = decodeAll(window);
      const settled = settledLength(text);
      const piece = text.slice(given, settled);
      given = Math.max(given, settled);
      if ((piece !== '' && settled === text.length) || window.length > maxWindowTokens) {
        window = settled === text.length ? window.slice(context) : window.slice(-resyncTokens);
        context = window.length;
        given = settledLength(decodeAll(window));
      }
      return piece;
    },
    flush() {
      const piece = decodeAll(window).slice(given);
      window = [];
      context = 0;
      given = 0;
      return piece;
    },
  };
}
