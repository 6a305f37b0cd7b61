import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { createTokenizer, type Tokenizer } from '../../src/engine/tokenizer.ts';
import { InvalidArgumentError, ModelFileError } from '../../src/errors.ts';

const readJson = (path: string): unknown => JSON.parse(readFileSync(path, 'utf8'));

const named = { bosTokenId: 0, eosTokenIds: [0] };
const json = readJson('demo/model/tokenizer.json') as Record<string, unknown>;
const config = readJson('demo/model/tokenizer_config.json') as Record<string, unknown>;
const tokenizer = createTokenizer(json, config, named);

interface Golden {
  readonly prompts: readonly {
    readonly text: string;
    readonly ids: number[];
    readonly greedy_ids: number[];
    readonly greedy_text: string;
  }[];
}
const golden = readJson('test/golden/golden.json') as Golden;
const passages = (readJson('test/golden/eval.json') as { readonly passages: readonly { readonly ids: number[] }[] }).passages;

function streamed(of: Tokenizer, ids: readonly number[]): string {
  const stream = of.stream();
  return ids.map((id) => stream.push(id)).join('') + stream.flush();
}

/** Whole numbers below `limit`, the same every time (mulberry32). */
function randomIntegers(seed: number): (limit: number) => number {
  let state = seed;
  return (limit) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * limit);
  };
}

const added = (id: number, content: string, special = true) => ({
  id,
  content,
  special,
  ...{ single_word: false, lstrip: false, rstrip: false, normalized: false },
});

const template = (token: string, id: number) => ({
  type: 'TemplateProcessing',
  single: [{ SpecialToken: { id: token, type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
  pair: [],
  special_tokens: { [token]: { id: token, ids: [id], tokens: [token] } },
});

/** As Llama 2 has it: spaces are ▁, one goes in front, what the vocabulary lacks is spelt in bytes. */
function llama2Style(vocabulary: readonly string[]): Tokenizer {
  const tokens = [
    '<unk>',
    '<s>',
    '</s>',
    ...Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`),
  ];
  tokens.push(...vocabulary);
  const tokenizerJson = {
    added_tokens: [added(0, '<unk>'), added(1, '<s>'), added(2, '</s>')],
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'Prepend', prepend: '▁' },
        { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
      ],
    },
    pre_tokenizer: null,
    post_processor: template('<s>', 1),
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        { type: 'Strip', content: ' ', start: 1, stop: 0 },
      ],
    },
    model: {
      type: 'BPE',
      unk_token: '<unk>',
      fuse_unk: true,
      byte_fallback: true,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: [],
    },
  };
  return createTokenizer(tokenizerJson, { bos_token: { content: '<s>' } }, { bosTokenId: undefined, eosTokenIds: [2] });
}

/** A Unigram vocabulary, which could spell its special tokens from plain text. */
function unigram(tokenizerConfig?: unknown): Tokenizer {
  const vocab = ['<unk>', '<s>', '▁', 'a', 'b', '<', 's', '>', 'ab'].map((token) => [token, token === '<s>' ? 0 : -1]);
  const tokenizerJson = {
    added_tokens: [added(0, '<unk>'), added(1, '<s>')],
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'never' },
    model: { type: 'Unigram', unk_id: 0, vocab },
  };
  return createTokenizer(tokenizerJson, tokenizerConfig, { bosTokenId: 1, eosTokenIds: [] });
}

it('says how its vocabulary is spelled', () => {
  const pieces = llama2Style(['▁a', 'b']).vocabulary();
  expect([pieces.spelling, pieces.tokens.length]).toEqual(['byte-fallback', 261]);
  expect([0, 1, 2, 3, 258, 259, 260].map((id) => pieces.tokens[id])).toEqual(['', '', '', '<0x00>', '<0xFF>', '▁a', 'b']);
  expect(unigram().vocabulary()).toEqual({ tokens: ['', '', '▁', 'a', 'b', '<', 's', '>', 'ab'], spelling: 'byte-fallback' });
});

describe('the model that ships', () => {
  it.each(golden.prompts)('encodes and streams as transformers does: $text', ({ text, ids, greedy_ids, greedy_text }) => {
    expect(tokenizer.encode(text)).toEqual(ids);
    expect(tokenizer.decode(ids)).toBe(text);
    expect(tokenizer.decode(greedy_ids)).toBe(greedy_text);
    expect(streamed(tokenizer, greedy_ids)).toBe(greedy_text);
  });

  it('gives every token of plain text at once', () => {
    const stream = tokenizer.stream();
    const ids = tokenizer.encode(' She loved to play.', { addBos: false });
    expect(ids.map((id) => stream.push(id))).toEqual([' She', ' loved', ' to', ' play', '.']);
    expect(stream.flush()).toBe('');
  });

  it('reads back the ids of the test passages from their text', () => {
    for (const { ids } of passages) {
      const text = tokenizer.decode(ids);
      expect(streamed(tokenizer, ids)).toBe(text);
      expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
    }
  });

  it('knows its tokens by name', () => {
    expect(tokenizer.bosTokenId).toBe(0);
    expect(tokenizer.idOf('<|endoftext|>')).toBe(0);
    expect(tokenizer.idOf('<|sep|>')).toBe(3);
    expect(tokenizer.idOf('no such token')).toBeUndefined();
    const { tokens, spelling } = tokenizer.vocabulary();
    expect([tokens.length, spelling]).toEqual([4096, 'byte-level']);
    expect(tokens.slice(0, 4)).toEqual(['', '', '', '']);
    expect(tokens.slice(4).every((token, i) => tokenizer.idOf(token) === i + 4)).toBe(true);
  });
});

describe('the begin token', () => {
  it('is in front once', () => {
    expect(tokenizer.encode('')).toEqual([0]);
    expect(tokenizer.encode('Once')).toEqual([0, ...tokenizer.encode('Once', { addBos: false })]);
    expect(tokenizer.encode('<|endoftext|>Once', { parseSpecial: true })).toEqual(tokenizer.encode('Once'));
    expect(tokenizer.encode('<|endoftext|>', { parseSpecial: true, addBos: false })).toEqual([0]);
  });

  it('comes by add_bos_token, else by the post-processor', () => {
    const { add_bos_token: _, ...silent } = config;
    expect(createTokenizer(json, { ...config, add_bos_token: false }, named).encode('a')).not.toContain(0);
    expect(createTokenizer(json, silent, named).encode('a')).toEqual(tokenizer.encode('a'));
    expect(createTokenizer(json, undefined, named).encode('a')).toEqual(tokenizer.encode('a'));
    expect(createTokenizer({ ...json, post_processor: null }, silent, named).encode('a')).not.toContain(0);
    expect(createTokenizer({ ...json, post_processor: null }, config, named).encode('a')).toEqual(tokenizer.encode('a'));
  });

  it("is the tokenizer's own rather than the model's", () => {
    expect(createTokenizer(json, { ...config, bos_token: '<|sep|>' }, named).encode('')).toEqual([3]);
    expect(createTokenizer(json, { ...config, bos_token: { content: '<|sep|>' } }, named).bosTokenId).toBe(3);
  });

  it('cannot be asked for where there is none', () => {
    const none = createTokenizer(json, { add_bos_token: true }, { bosTokenId: undefined, eosTokenIds: [] });
    expect(none.encode('')).toEqual([]);
    expect(() => none.encode('', { addBos: true })).toThrow(InvalidArgumentError);
    expect(() => none.encode('', { addBos: true })).toThrow('addBos is true, but must be false: this tokenizer has no begin token.');
  });
});

describe('special tokens in a prompt', () => {
  const prompt = 'A <|sep|>b<|endoftext|><|pad|>';

  it('are text', () => {
    const ids = tokenizer.encode(prompt);
    expect(ids.slice(1).every((id) => id > 3)).toBe(true);
    expect(tokenizer.decode(ids)).toBe(prompt);
  });

  it('are tokens when asked for', () => {
    const ids = tokenizer.encode(prompt, { parseSpecial: true });
    expect(ids.filter((id) => id < 4)).toEqual([0, 3, 0, 2]);
    expect(tokenizer.decode(ids)).toBe('A b');
    expect(tokenizer.decode(ids, { skipSpecial: false })).toBe(`<|endoftext|>${prompt}`);
  });

  it('stay text even where the vocabulary could spell them', () => {
    const tokens = unigram({ add_bos_token: false });
    const ids = tokens.encode('ab<s>a<s>');
    expect(ids).toEqual(['ab', '<', 's', '>', 'a', '<', 's', '>'].map((token) => tokens.idOf(token)));
    expect(tokens.decode(ids)).toBe('ab<s>a<s>');
    expect(tokens.encode('ab<s>', { parseSpecial: true })).toEqual([8, 1]);
    expect(tokens.encode('?')).toEqual([0]);
  });

  it('yield no text, nor do ids beyond the vocabulary', () => {
    const ids = [0, ...tokenizer.encode('One', { addBos: false }), 0, 3, 99999, -1, ...tokenizer.encode(' day', { addBos: false })];
    expect(tokenizer.decode(ids)).toBe('One day');
    expect(streamed(tokenizer, ids)).toBe('One day');
    expect(tokenizer.decode([])).toBe('');
    expect(tokenizer.decode([0])).toBe('');
  });

  it('keep added tokens that are not special', () => {
    const tokens = createTokenizer(
      { ...json, added_tokens: [...(json.added_tokens as unknown[]), added(4096, '<tool>', false)] },
      config,
      named,
    );
    expect(tokens.encode('a<tool>')).toContain(4096);
    expect(streamed(tokens, tokens.encode('a<tool>b'))).toBe('a<tool>b');
  });
});

describe('streaming', () => {
  const texts = [
    'Grüße, ångström, naïve — “quoted” … done.',
    '日本語の文章と한국어 그리고 中文。',
    '👍🏽 👨‍👩‍👧‍👦 🇩🇪 🏴󠁧󠁢󠁥󠁮󠁧󠁿 flags and families',
    'e\u0301 n\u0303 a\u0308\u0332 Z\u0351\u036b\u0343 क्षि ที่',
    '\uFFFD real replacement \uFFFD\uFFFD characters \uFFFD',
    '  two spaces\n\n\ttab\r\n and \u00a0 others \u3000',
    'עברית العربية \u202Ertl\u202C',
    '\u{10FFFF}\u{10000}\uFEFFbom\u0000nul',
    '',
  ];

  it.each(texts)('gives whole characters, and all of them: %j', (text) => {
    const ids = tokenizer.encode(text);
    const stream = tokenizer.stream();
    const pieces = ids.map((id) => stream.push(id));
    if (!text.includes('\uFFFD')) for (const piece of pieces) expect(piece).not.toContain('\uFFFD');
    for (const piece of pieces) expect(piece.isWellFormed()).toBe(true);
    expect(pieces.join('') + stream.flush()).toBe(text);
    expect(tokenizer.decode(ids)).toBe(text);
  });

  it('holds back half a character until it is whole or the text ends', () => {
    const ids = tokenizer.encode('👍', { addBos: false });
    expect(ids).toHaveLength(4);
    const stream = tokenizer.stream();
    expect(ids.map((id) => stream.push(id))).toEqual(['', '', '', '👍']);
    expect(stream.push(ids[0]!)).toBe('');
    expect(stream.flush()).toBe('\uFFFD');
    expect(stream.flush()).toBe('');
    expect(ids.map((id) => stream.push(id)).join('')).toBe('👍');
  });

  it('equals decoding the whole for any ids, broken characters included', () => {
    const random = randomIntegers(1);
    const bytes = Array.from({ length: 256 }, (_, index) => index + 4);
    for (let round = 0; round < 300; round++) {
      // Mostly single bytes, most of which are half characters; some runs are long enough to make the stream resynchronise.
      const ids = Array.from({ length: 1 + random(120) }, () => (random(10) < 8 ? bytes[random(256)]! : random(4096)));
      expect(streamed(tokenizer, ids)).toBe(tokenizer.decode(ids));
    }
  });

  it('equals decoding the whole for random text', () => {
    const random = randomIntegers(2);
    const letters = [...texts.join('')];
    for (let round = 0; round < 200; round++) {
      const text = Array.from({ length: random(60) }, () => letters[random(letters.length)]).join('');
      expect(streamed(tokenizer, tokenizer.encode(text))).toBe(text);
    }
  });

  it('costs the same for each token however long the text, also when it never makes a character', () => {
    const lead = tokenizer.encode('👍', { addBos: false })[0]!;
    const ids = new Array<number>(20000).fill(lead);
    const start = performance.now();
    const text = streamed(tokenizer, ids);
    expect(performance.now() - start).toBeLessThan(2000);
    expect(text).toBe('\uFFFD'.repeat(20000));
  });

  it('keeps the spaces that a decoder strips at the start of a text only', () => {
    const tokens = llama2Style(['▁', 'a', 'b', '▁a', '▁b', '▁▁']);
    const id = (token: string): number => tokens.idOf(token)!;
    const ids = ['▁a', 'b', '▁', '▁b', '▁▁', '▁', 'a', '▁a'].map(id);
    expect(tokens.decode(ids)).toBe('ab  b   a a');
    expect(streamed(tokens, ids)).toBe('ab  b   a a');
    expect(streamed(tokens, ['▁', '▁', 'a'].map(id))).toBe(tokens.decode(['▁', '▁', 'a'].map(id)));
    expect(tokens.encode(' a')).toEqual([1, id('▁'), id('▁'), id('a')]);
  });

  it('joins bytes that stand in for a character', () => {
    const tokens = llama2Style(['▁', 'a']);
    const ids = tokens.encode('a 日👍a');
    expect(ids[0]).toBe(1);
    expect(streamed(tokens, ids)).toBe('a 日👍a');
    const random = randomIntegers(3);
    for (let round = 0; round < 200; round++) {
      const any = Array.from({ length: 1 + random(60) }, () => random(261));
      expect(streamed(tokens, any)).toBe(tokens.decode(any));
    }
  });

  it('keeps the spaces of a metaspace decoder', () => {
    const tokens = unigram();
    const ids = ['▁', 'a', '▁', '▁', 'b'].map((token) => tokens.idOf(token)!);
    expect(tokens.decode(ids)).toBe('a  b');
    expect(streamed(tokens, ids)).toBe('a  b');
  });
});

describe('files that cannot be used', () => {
  it.each<[string, unknown, string]>([
    ['no object', null, 'has no "model" or no "added_tokens"'],
    ['no model', { added_tokens: [] }, 'has no "model" or no "added_tokens"'],
    ['parts missing', { added_tokens: [], model: { type: 'BPE', vocab: {}, merges: [] } }, 'cannot be used: '],
    ['an unknown model', { ...json, model: { type: 'Telepathy' } }, 'cannot be used: '],
    ['an unknown decoder', { ...json, decoder: { type: 'Runes' } }, 'cannot be used: Unknown Decoder type: Runes'],
  ])('%s', (_, bad, message) => {
    expect(() => createTokenizer(bad, config, named)).toThrow(ModelFileError);
    expect(() => createTokenizer(bad, config, named)).toThrow(`Model file tokenizer.json: ${message}`);
  });

  it('names a token that the model has and the tokenizer lacks', () => {
    const message = "has no token 50256, which the model's config names. Are both files of the same model?";
    expect(() => createTokenizer(json, config, { bosTokenId: 0, eosTokenIds: [0, 50256] })).toThrow(message);
    expect(() => createTokenizer(json, config, { bosTokenId: 50256, eosTokenIds: [] })).toThrow(ModelFileError);
  });
});
