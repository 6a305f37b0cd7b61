import { describe, expect, test } from 'vitest';
import {
  cutAtStop,
  drawShots,
  extractAnswer,
  isCorrect,
  noAnswer,
  type Problem,
  parseProblems,
  promptOf,
  scoreOf,
} from '../../demo/eval/gsm8k.ts';
import { readEvalOptions } from '../../demo/eval/options.ts';
import { measurePerplexity, parseDocuments, scoringWindows } from '../../demo/eval/perplexity.ts';
import { pythonRandom } from '../../demo/eval/python-random.ts';
import {
  AnswersDifferError,
  checkSameAnswers,
  type EvaluatedEngine,
  gsm8kTask,
  harnessTable,
  perplexityTask,
} from '../../demo/eval/tasks.ts';
import type { Generation } from '../../src/engine/types.ts';
import { random } from '../harness/random.ts';

const numbers = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

describe("Python's samples", () => {
  // Printed by CPython 3.12: random.Random(seed).sample(range(count), k), one call after the other.
  test.each([
    [
      1234,
      [
        [7473, 5, [6374, 3610, 957, 61, 742]],
        [7473, 5, [7462, 6610, 4769, 286, 5501]],
        [7473, 5, [5677, 687, 806, 6279, 2905]],
      ],
    ],
    [
      1234,
      [
        [6, 3, [3, 0, 4]],
        [6, 3, [0, 4, 5]],
        [21, 5, [2, 3, 11, 7, 0]],
        [30, 6, [0, 25, 29, 11, 20, 19]],
        [90, 8, [61, 78, 59, 19, 11, 23, 14, 1]],
      ],
    ],
    [0, [[1319, 5, [788, 861, 82, 530, 1047]]]],
    [4294967295, [[1319, 5, [1301, 1268, 416, 441, 1243]]]],
  ] as const)('of seed %i', (seed, draws) => {
    const numbersOf = pythonRandom(seed);
    for (const [count, k, expected] of draws) expect(numbersOf.sample(numbers(count), k)).toEqual(expected);
  });

  test('after many draws', () => {
    const numbersOf = pythonRandom(7);
    for (let i = 1; i < 500; i++) numbersOf.sample(numbers(1000), 5);
    expect(numbersOf.sample(numbers(1000), 5)).toEqual([544, 608, 772, 705, 771]);
  });
});

describe('GSM8K', () => {
  const problems: Problem[] = [
    { question: 'One and one?', answer: 'It is 1+1 = <<1+1=2>>2.\n#### 2' },
    { question: 'Two and two?', answer: 'It is 4.\n#### 4' },
  ];

  test('a prompt is worked examples and the question', () => {
    expect(promptOf([], problems[0])).toBe('Question: One and one?\nAnswer:');
    expect(promptOf(problems, { question: 'Three?', answer: '#### 3' })).toBe(
      'Question: One and one?\nAnswer: It is 1+1 = <<1+1=2>>2.\n#### 2\n\nQuestion: Two and two?\nAnswer: It is 4.\n#### 4\n\nQuestion: Three?\nAnswer:',
    );
  });

  test('worked examples are drawn anew for each question, the same each time', () => {
    const train = numbers(100).map((i) => ({ question: String(i), answer: `#### ${i}` }));
    const drawn = drawShots(train, 5, 3);
    expect(drawn.map((shots) => shots.length)).toEqual([5, 5, 5]);
    expect(new Set(drawn.map((shots) => JSON.stringify(shots))).size).toBe(3);
    expect(drawShots(train, 5, 3)).toEqual(drawn);
    expect(drawShots(train, 5, 2)).toEqual(drawn.slice(0, 2));
    expect(drawShots(train, 5, 3, 1)).not.toEqual(drawn);
  });

  test.each([
    [' 4.\n#### 4', ' 4.\n#### 4'],
    [' 4.\n#### 4\n\nQuestion: and Question: more', ' 4.\n#### 4\n\n'],
    ['a<|im_end|>b</s>c', 'a'],
    ['a</s>b<|im_end|>c', 'a'],
    ['Question:', ''],
    ['question: </ s>', 'question: </ s>'],
  ])('%j is cut at the first stop string', (text, expected) => {
    expect(cutAtStop(text)).toBe(expected);
  });

  test.each([
    // response, strict, flexible; what Python's re.findall gives.
    ['so 12.\n#### 12', '12', '12'],
    ['#### 1,234', '1,234', '1,234'],
    ['#### $1,234', noAnswer, '$1,234'],
    ['#### -5', '-5', '-5'],
    ['#### 5.', '5.', '5.'],
    ['#### 5.50.', '5.50.', '5.50.'],
    ['####5 apples', noAnswer, '5'],
    ['#### 3 and then #### 4', '3', '4'],
    ['the answer is 7', noAnswer, '7'],
    ['costs $5', noAnswer, '$5'],
    ['costs $5.', noAnswer, '$5.'],
    ['from 3-4', noAnswer, '-4'],
    ['3 apples...', noAnswer, '...'],
    ['7, I think', noAnswer, '7,'],
    ['no number at all', noAnswer, noAnswer],
    ['', noAnswer, noAnswer],
    ['- 8', noAnswer, '8'],
    ['#### .', '.', noAnswer],
  ])('%j has the answers %j and %j', (response, strict, flexible) => {
    expect(extractAnswer('strict-match', response)).toBe(strict);
    expect(extractAnswer('flexible-extract', response)).toBe(flexible);
  });

  test.each([
    ['1,234', 'x #### 1234', true],
    ['$1,234.', 'x\n#### 1,234', true],
    ['5.', '#### 5', true],
    ['5.0', '#### 5', false],
    ['-5', '#### 5', false],
    ['-5', '#### -5', true],
    ['50', '#### 5', false],
    ['5..', '#### 5', false],
    ['5', 'a #### 4 and\n#### 5', true],
    ['5', '#### 5\n', false],
    ['5.\n', '#### 5\n', true],
    [noAnswer, '#### 5', false],
    ['$', '#### 5', false],
  ])('%j against %j', (extracted, answer, expected) => {
    expect(isCorrect(extracted, answer)).toBe(expected);
  });

  test('a score has the standard error of a mean', () => {
    expect(scoreOf([true, true, false, false])).toEqual({ value: 0.5, standardError: expect.closeTo(Math.sqrt(1 / 3 / 4), 12) });
    expect(scoreOf([true, true])).toEqual({ value: 1, standardError: 0 });
    expect(scoreOf([true]).standardError).toBeNaN();
    // The original's check: 396 and 385 of 500.
    const rows = harnessTable(
      {
        'flexible-extract': scoreOf(numbers(500).map((i) => i < 396)),
        'strict-match': scoreOf(numbers(500).map((i) => i < 385)),
      },
      5,
    );
    expect(rows).toEqual([
      '|Tasks|Version|     Filter     |n-shot|  Metric   |   |Value|   |Stderr|',
      '|-----|------:|----------------|-----:|-----------|---|----:|---|-----:|',
      '|gsm8k|      3|flexible-extract|     5|exact_match|↑  |0.792|±  |0.0182|',
      '|     |       |strict-match    |     5|exact_match|↑  |0.770|±  |0.0188|',
    ]);
  });

  test('a file is JSON lines', () => {
    const text = '{"question": "a", "answer": "b #### 1", "more": 2}\n\n{"question": "c", "answer": "#### 2"}\n';
    expect(parseProblems(text, 'f.jsonl')).toEqual([
      { question: 'a', answer: 'b #### 1' },
      { question: 'c', answer: '#### 2' },
    ]);
  });

  test.each([
    ['{"question": "a", "answer": "#### 1"}\nnot JSON', /f\.jsonl, line 2, is "not JSON", but must be a JSON object/],
    ['{"question": "a", "answer": "no mark"}', /line 1, is .*no mark/],
    ['{"question": 1, "answer": "#### 1"}', /line 1,/],
    ['null', /line 1, is "null"/],
    ['\n', /f\.jsonl is "empty"/],
  ])('%j is refused', (text, expected) => {
    expect(() => parseProblems(text, 'f.jsonl')).toThrow(expected);
  });
});

describe('perplexity', () => {
  test.each([
    [
      10,
      4,
      2,
      [
        [0, 4, 0],
        [2, 6, 4],
        [4, 8, 6],
        [6, 10, 8],
      ],
    ],
    [
      10,
      4,
      4,
      [
        [0, 4, 0],
        [4, 8, 4],
        [8, 10, 8],
      ],
    ],
    [
      9,
      4,
      3,
      [
        [0, 4, 0],
        [3, 7, 4],
        [6, 9, 7],
      ],
    ],
    [3, 4, 2, [[0, 3, 0]]],
    [4, 4, 1, [[0, 4, 0]]],
    [0, 4, 2, []],
  ])('%i tokens in windows of %i, %i apart', (length, context, stride, expected) => {
    expect(scoringWindows(length, context, stride).map(({ begin, end, first }) => [begin, end, first])).toEqual(expected);
  });

  test.each([1, 2, 3])('each token after the first counts once, with what it sees before it, seed %i', async (seed) => {
    const source = random(seed);
    for (let round = 0; round < 100; round++) {
      const context = 2 + source.integer(20);
      const stride = 1 + source.integer(context - 1); // windows overlap
      const ids = numbers(1 + source.integer(100)).map((i) => 1000 + i);
      if (ids.length < 2) continue;
      // The "likelihood" of a token says which it is and how much stood before it.
      const score = async (window: readonly number[]) => window.slice(1).map((id, i) => id + (i + 1) / 100);
      const { nll, result } = await measurePerplexity([{ ids, bytes: undefined }], score, { context, stride });
      expect(nll[0].map(Math.floor)).toEqual(ids.slice(1));
      const seen = nll[0].map((value) => Math.round((value % 1) * 100));
      seen.forEach((before, i) => {
        expect(before).toBeGreaterThanOrEqual(Math.min(i + 1, context - stride));
        expect(before).toBeLessThan(context);
      });
      expect(result.tokens).toBe(ids.length - 1);
    }
  });

  test('is that of all tokens together, not the mean of the texts', async () => {
    const documents = [
      { ids: [1, 2], bytes: 3 },
      { ids: [1, 2, 3, 4], bytes: 5 },
    ];
    const score = async (ids: readonly number[]) => ids.slice(1).map(() => (ids.length === 2 ? 4 : 0));
    const progress: number[][] = [];
    const { result } = await measurePerplexity(documents, score, { context: 8, stride: 4 }, (done, total) => progress.push([done, total]));
    expect(result).toEqual({ perplexity: Math.E, meanNll: 1, tokens: 4, bitsPerByte: 4 / Math.LN2 / 8, documents: 2 });
    expect(progress).toEqual([
      [1, 2],
      [2, 2],
    ]);
  });

  test('a text is one document, JSON lines are several', () => {
    expect(parseDocuments('a\nb\n', 'a.txt')).toEqual([{ text: 'a\nb\n' }]);
    expect(parseDocuments('{"text": "a"}\n{"ids": [1, 2]}\n', 'a.jsonl')).toEqual([{ text: 'a' }, { ids: [1, 2] }]);
  });

  test.each([
    ['', 'a.txt', /a\.txt is "empty"/],
    ['\n', 'a.jsonl', /a\.jsonl is "empty"/],
    ['{"ids": [-1]}', 'a.jsonl', /a\.jsonl, line 1, is .* but must be a JSON object/],
    ['{"text": "a"}\n{', 'a.jsonl', /line 2, is "\{"/],
  ])('%j in %s is refused', (content, file, expected) => {
    expect(() => parseDocuments(content, file)).toThrow(expected);
  });
});

/** Answers by what `answerOf` says to a prompt's ids, in pieces of one character; ids are characters. */
function fakeEngine(answerOf: (prompt: string) => string, contextLength = 1000) {
  const asked: { readonly prompt: string; read: number; running: number }[] = [];
  let running = 0;
  const engine = {
    contextLength,
    tokenizer: { encode: (text: string) => [...text].map((character) => character.charCodeAt(0)) },
    generate(ids: readonly number[]): Generation {
      const entry = { prompt: String.fromCharCode(...ids), read: 0, running: ++running };
      asked.push(entry);
      async function* chunks() {
        try {
          for (const text of answerOf(entry.prompt)) {
            await Promise.resolve();
            entry.read++;
            yield { text, ids: [text.charCodeAt(0)], index: 0 };
          }
        } finally {
          running--;
        }
      }
      return { [Symbol.asyncIterator]: chunks } as unknown as Generation;
    },
    score: async (ids: readonly number[]) => ids.slice(1).map(() => 1),
  };
  return { engine: engine as unknown as EvaluatedEngine, asked };
}

const context = (concurrency = 1) => ({ concurrency, signal: new AbortController().signal, onProgress: () => {} });

describe('the tasks', () => {
  const train = [
    { question: 'w1', answer: '#### 1' },
    { question: 'w2', answer: '#### 2' },
  ];
  const problems = numbers(5).map((i) => ({ question: `q${i}`, answer: `so\n#### ${1000 + i}` }));
  const options = { task: 'gsm8k', file: 'f', train: 't', shots: 2, limit: undefined, maxTokens: 50, shotSeed: 1234 } as const;
  const answers: Readonly<Record<string, string>> = {
    q0: ' so\n#### 1,000\n\nQuestion: never read',
    q1: ' it is 1001.',
    q2: ' so\n#### 7',
    q3: ' so $1,003',
    q4: '',
  };
  const answerOf = (prompt: string): string => answers[/q\d/.exec(prompt)?.[0] ?? ''];

  test.each([1, 3, 8])('asks, stops reading at a stop string, and scores, %i at a time', async (concurrency) => {
    const { engine, asked } = fakeEngine(answerOf);
    const { answers: responses, report, lines } = await gsm8kTask(options, problems, train)(engine, context(concurrency));
    expect(responses).toEqual([' so\n#### 1,000\n\n', ' it is 1001.', ' so\n#### 7', ' so $1,003', '']);
    expect(report).toMatchObject({
      scores: { 'flexible-extract': { value: 0.6 }, 'strict-match': { value: 0.2 } },
      ...{ questions: 5, truncatedPrompts: 0 },
      samples: [
        { question: 'q0', target: '1000', extracted: { 'strict-match': '1,000' }, correct: { 'strict-match': true } },
        { extracted: { 'flexible-extract': '1001.', 'strict-match': noAnswer }, correct: { 'flexible-extract': true } },
        {},
        {},
        { extracted: { 'flexible-extract': noAnswer } },
      ],
    });
    expect(lines[2]).toContain('|0.600|±  |0.2449|');
    expect(
      asked.every(({ prompt }) => /^Question: w\d\nAnswer: #### \d\n\nQuestion: w\d\nAnswer: #### \d\n\nQuestion: q/.test(prompt)),
    ).toBe(true);
    expect(asked.find(({ prompt }) => prompt.includes('q0'))?.read).toBe(' so\n#### 1,000\n\nQuestion:'.length);
    expect(Math.max(...asked.map(({ running }) => running))).toBe(Math.min(concurrency, 5));
  });

  test('takes the first questions, and says how many prompts lost their beginning', async () => {
    const { engine, asked } = fakeEngine(answerOf, 100);
    const { report, lines } = await gsm8kTask({ ...options, limit: 2 }, problems, train)(engine, context());
    expect(report).toMatchObject({ questions: 2, truncatedPrompts: 2 });
    expect(asked.map(({ prompt }) => [prompt.length, prompt.slice(-20)])).toEqual([
      [50, '\nQuestion: q0\nAnswer:'.slice(-20)],
      [50, '\nQuestion: q1\nAnswer:'.slice(-20)],
    ]);
    expect(lines.at(-1)).toBe('2 of 2 prompts did not fit and lost their beginning.');
  });

  test('refuses what cannot be asked', async () => {
    const { engine } = fakeEngine(answerOf, 50);
    expect(() => gsm8kTask({ ...options, shots: 3 }, problems, train)).toThrow(/--shots is 3, but must be at most 2/);
    await expect(gsm8kTask(options, problems, train)(engine, context())).rejects.toThrow(/--max-tokens is 50.*context, 50/);
    const perplexity = { task: 'perplexity', file: 'f', context: undefined, stride: undefined } as const;
    await expect(perplexityTask({ ...perplexity, context: 51 }, [{ text: 'ab' }])(engine, context())).rejects.toThrow(
      /--context is 51.*50/,
    );
    await expect(perplexityTask({ ...perplexity, stride: 51 }, [{ text: 'ab' }])(engine, context())).rejects.toThrow(
      /--stride is 51.*50 tokens/,
    );
    await expect(perplexityTask(perplexity, [{ text: 'a' }])(engine, context())).rejects.toThrow(/single token.*at least two/);
    const wordless = { ...engine, tokenizer: undefined };
    await expect(perplexityTask(perplexity, [{ text: 'ab' }])(wordless, context())).rejects.toThrow(/tokenizer/);
    expect((await perplexityTask(perplexity, [{ ids: [1, 2] }])(wordless, context())).report).toMatchObject({
      tokens: 1,
      bitsPerByte: undefined,
    });
  });

  test('measures perplexity of texts', async () => {
    const { engine } = fakeEngine(answerOf);
    const task = perplexityTask({ task: 'perplexity', file: 'f', context: 4, stride: undefined }, [{ text: 'aé' }, { text: 'abcdef' }]);
    const { report, lines, answers: likelihoods } = await task(engine, context());
    expect(report).toMatchObject({
      perplexity: Math.E,
      tokens: 6,
      context: 4,
      stride: 2,
      bitsPerByte: expect.closeTo(6 / Math.LN2 / 9, 12),
    });
    expect(lines).toEqual([
      'Perplexity      2.7183',
      'Nats per token  1.000000',
      'Bits per byte   0.9618',
      'Tokens          6 of 2 texts, windows of 4, 2 apart',
    ]);
    expect(likelihoods).toEqual(['[1]', '[1,1,1,1,1]']);
  });

  test('a failure or an interrupt ends all', async () => {
    const { engine, asked } = fakeEngine((prompt) => {
      if (prompt.includes('q1')) throw new Error('lost');
      return 'a';
    });
    await expect(gsm8kTask(options, problems, train)(engine, context())).rejects.toThrow('lost');
    expect(asked).toHaveLength(2);
    const stopped = { ...context(), signal: AbortSignal.abort() };
    await expect(gsm8kTask(options, problems, train)(fakeEngine(answerOf).engine, stopped)).rejects.toThrow(/abort/i);
    const perplexity = perplexityTask({ task: 'perplexity', file: 'f', context: 4, stride: 2 }, [{ text: 'abc' }]);
    await expect(perplexity(fakeEngine(answerOf).engine, stopped)).rejects.toThrow(/abort/i);
  });

  test('modes that differ are named, with the answer', () => {
    const runs = (other: string[]) => [
      { mode: 'on', answers: ['a', 'b'] },
      { mode: 'off', answers: ['a', 'b'] },
      { mode: 'verify', answers: other },
    ];
    expect(() => checkSameAnswers(runs(['a', 'b']))).not.toThrow();
    expect(() => checkSameAnswers(runs(['a', 'c']))).toThrow(AnswersDifferError);
    expect(() => checkSameAnswers(runs(['a', 'c']))).toThrow(/cache on and verify, answer 2 differs/);
    expect(() => checkSameAnswers(runs(['a']))).toThrow(AnswersDifferError);
  });
});

describe('the command line', () => {
  const read = (line: string) => readEvalOptions(line.split(' '));

  test('says what to measure and how', () => {
    expect(read('--gsm8k a --train b --shots 3 --limit 7')).toMatchObject({
      ...{ launchCaches: ['on'], concurrency: 8, json: false },
      measure: { task: 'gsm8k', file: 'a', train: 'b', shots: 3, limit: 7, maxTokens: 256, shotSeed: 1234 },
    });
    expect(read('--perplexity a --context 64 --stride 32 --compare --json')).toMatchObject({
      ...{ launchCaches: ['on', 'off', 'verify'], concurrency: 1, json: true },
      measure: { task: 'perplexity', file: 'a', context: 64, stride: 32 },
    });
    expect(read('--gsm8k a --shots 0 --launch-cache verify --compare --concurrency 2')).toMatchObject({
      concurrency: 2,
      measure: { shots: 0 },
    });
  });

  test.each([
    ['--json', /either --perplexity or --gsm8k.*--help/],
    ['--perplexity a --gsm8k b', /either --perplexity or --gsm8k/],
    ['--gsm8k a', /--shots needs --train/],
    ['--gsm8k a --train b --shots 65', /--shots is "65", but must be an integer from 0 to 64/],
    ['--perplexity a --context 1', /--context is "1", but must be an integer of at least 2/],
    ['--perplexity a --stride 0', /--stride is "0"/],
    ['--perplexity a --launch-cache maybe', /--launch-cache is "maybe"/],
    ['--perplexity a more', /too many arguments/],
    ['--perplexity a --sed 1', /unknown option '--sed'.*npm run eval -- --help/],
  ])('%s is refused', (line, expected) => {
    expect(() => read(line)).toThrow(expected);
  });
});
