/**
 * The task `gsm8k` of lm-evaluation-harness, version 3: grade-school arithmetic in words (Cobbe et al. 2021), its prompts, its two ways
 * to find the answer in a response, and its scores. Pure: whoever calls brings the model.
 */
import { InvalidArgumentError } from 'pagewise';
import { pythonRandom } from './python-random.ts';

/** A question, and a worked answer that ends with "#### " and the number. */
export interface Problem {
  readonly question: string;
  readonly answer: string;
}

/** A response ends before the first of these. */
export const stopStrings = ['Question:', '</s>', '<|im_end|>'] as const;

/** Most tokens of a response, as the harness has it where a task says nothing. */
export const defaultMaxTokens = 256;

/** The harness's own seed of worked examples. */
export const defaultShotSeed = 1234;

/** How the answer is found: `strict-match` wants it as the worked examples write it, `flexible-extract` takes the last number. */
export const filters = ['flexible-extract', 'strict-match'] as const;
export type Filter = (typeof filters)[number];

/** Stands for an answer that was not found. */
export const noAnswer = '[invalid]';

/**
 * Reads JSON lines of {question, answer}; blank lines are left out, further fields are not read.
 *
 * @param file its name, for errors.
 * @throws {InvalidArgumentError} that names file and line.
 */
export function parseProblems(text: string, file: string): Problem[] {
  const problems: Problem[] = [];
  for (const [index, line] of text.split('\n').entries()) {
    if (line.trim() === '') continue;
    const expected = 'a JSON object {"question": "...", "answer": "... #### number"}';
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch {
      throw new InvalidArgumentError(`${file}, line ${index + 1},`, shorten(line), expected);
    }
    const { question, answer } = (value ?? {}) as Record<string, unknown>;
    if (typeof question !== 'string' || typeof answer !== 'string' || !answer.includes('#### '))
      throw new InvalidArgumentError(`${file}, line ${index + 1},`, shorten(line), expected);
    problems.push({ question, answer });
  }
  if (problems.length === 0) throw new InvalidArgumentError(file, 'empty', 'a file with at least one problem');
  return problems;
}

function shorten(line: string): string {
  return line.length > 60 ? `${line.slice(0, 57)}...` : line;
}

/** What the model is to go on with: the worked examples, then the question. */
export function promptOf(shots: readonly Problem[], { question }: Problem): string {
  const worked = shots.map((shot) => `Question: ${shot.question}\nAnswer: ${shot.answer}\n\n`);
  return `${worked.join('')}Question: ${question}\nAnswer:`;
}

/** The worked examples of each of `count` questions in turn: drawn anew for each, with the harness's generator, in its order. */
export function drawShots(train: readonly Problem[], shots: number, count: number, seed: number = defaultShotSeed): Problem[][] {
  const random = pythonRandom(seed);
  return Array.from({ length: count }, () => random.sample(train, shots));
}

/** A response up to its first stop string. */
export function cutAtStop(text: string): string {
  return stopStrings.reduce((cut, stop) => cut.split(stop, 1)[0], text);
}

/** The answer in a response, as the harness's filters find it; `noAnswer` where there is none. */
export function extractAnswer(filter: Filter, response: string): string {
  if (filter === 'strict-match') return /#### (-?[0-9.,]+)/.exec(response)?.[1] ?? noAnswer;
  return response.match(/-?[$0-9.,]{2,}|-?[0-9]+/g)?.at(-1) ?? noAnswer;
}

/** Whether an extracted answer is that of the worked one: thousands' commas, dollar signs, case and a full stop at the end do not count. */
export function isCorrect(extracted: string, answer: string): boolean {
  return comparable(extracted) === comparable(answer);
}

/** What remains once the task's `regexes_to_ignore` are taken out, in lower case. Python's `$` also stands before a last line feed. */
function comparable(text: string): string {
  return text
    .replaceAll(',', '')
    .replaceAll('$', '')
    .replace(/.*#### /gs, '')
    .replace(/\.(?=\n?$)/, '')
    .toLowerCase();
}

/** A mean, and its standard error: the sample's standard deviation over the square root of its size; NaN for a single value. */
export interface Score {
  readonly value: number;
  readonly standardError: number;
}

/** The score of answers that are right or wrong, as the harness's `mean` and `mean_stderr`. At least one. */
export function scoreOf(correct: readonly boolean[]): Score {
  const count = correct.length;
  const value = correct.filter(Boolean).length / count;
  const squares = correct.reduce((sum, right) => sum + (Number(right) - value) ** 2, 0);
  return { value, standardError: Math.sqrt(squares / (count - 1) / count) };
}
