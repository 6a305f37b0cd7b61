/**
 * Perplexity over texts that are longer than a model's context: windows that overlap, of which each token counts once (as in "Perplexity of
 * fixed-length models" of the transformers documentation). Pure: whoever calls brings the model.
 */
import { InvalidArgumentError } from 'pagewise';

/** One text of a file, or token ids that were made elsewhere. */
export type Document = { readonly text: string } | { readonly ids: readonly number[] };

/** Tokens [begin, end) of a document, given to the model together; those from `first` on count. */
export interface ScoringWindow {
  readonly begin: number;
  readonly end: number;
  readonly first: number;
}

/** What was measured. */
export interface PerplexityResult {
  /** exp of the mean. */
  readonly perplexity: number;
  /** Mean negative log likelihood of a token, in nats. */
  readonly meanNll: number;
  /** Tokens that counted: all but the first of each document, and of each window where windows do not overlap. */
  readonly tokens: number;
  /** Bits for each byte of UTF-8, which compares models of different tokenizers; undefined where documents are token ids. */
  readonly bitsPerByte: number | undefined;
  readonly documents: number;
}

/**
 * Reads a file: JSON lines of {"text"} or {"ids"} where its name ends with .jsonl, a document each; else the whole file is one text.
 *
 * @throws {InvalidArgumentError} that names file and line.
 */
export function parseDocuments(content: string, file: string): Document[] {
  if (!file.endsWith('.jsonl')) {
    if (content === '') throw new InvalidArgumentError(file, 'empty', 'a text');
    return [{ text: content }];
  }
  const documents = content
    .split('\n')
    .flatMap((line, index) => (line.trim() === '' ? [] : [parseLine(line, `${file}, line ${index + 1},`)]));
  if (documents.length === 0) throw new InvalidArgumentError(file, 'empty', 'a file with at least one document');
  return documents;
}

function parseLine(line: string, place: string): Document {
  const expected = 'a JSON object {"text": "..."} or {"ids": [token ids]}';
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw new InvalidArgumentError(place, line.slice(0, 60), expected);
  }
  const { text, ids } = (value ?? {}) as Record<string, unknown>;
  if (typeof text === 'string') return { text };
  if (Array.isArray(ids) && ids.every((id) => Number.isInteger(id) && id >= 0)) return { ids };
  throw new InvalidArgumentError(place, line.slice(0, 60), expected);
}

/**
 * Windows over `length` tokens: as long as `context`, each `stride` tokens after the one before.
 *
 * @param stride 1 to `context`. The smaller, the more each token sees before it, and the more work it is.
 */
export function scoringWindows(length: number, context: number, stride: number): ScoringWindow[] {
  const windows: ScoringWindow[] = [];
  let counted = 0;
  for (let begin = 0; counted < length; begin += stride) {
    const end = Math.min(begin + context, length);
    windows.push({ begin, end, first: counted });
    counted = end;
  }
  return windows;
}

/**
 * Scores documents one after the other.
 *
 * @param score the negative log likelihood of each token after the first, given those before it.
 * @param onWindow hears of each window done, and of how many there are.
 */
export async function measurePerplexity(
  documents: readonly { readonly ids: readonly number[]; readonly bytes: number | undefined }[],
  score: (ids: readonly number[]) => Promise<readonly number[]>,
  { context, stride }: { readonly context: number; readonly stride: number },
  onWindow: (done: number, total: number) => void = () => {},
): Promise<{ readonly result: PerplexityResult; readonly nll: readonly (readonly number[])[] }> {
  const work = documents.map(({ ids }) => scoringWindows(ids.length, context, stride));
  const total = work.reduce((sum, windows) => sum + windows.length, 0);
  let done = 0;
  const nll: number[][] = [];
  for (const [index, windows] of work.entries()) {
    const counted: number[] = [];
    for (const { begin, end, first } of windows) {
      if (end - begin > 1) {
        const values = await score(documents[index].ids.slice(begin, end));
        // values[i] is that of token begin + i + 1.
        counted.push(...values.slice(Math.max(0, first - begin - 1)));
      }
      onWindow(++done, total);
    }
    nll.push(counted);
  }
  const tokens = nll.reduce((sum, values) => sum + values.length, 0);
  if (tokens === 0) throw new InvalidArgumentError('the text', 'a single token', 'at least two tokens long');
  const sum = nll.flat().reduce((a, b) => a + b, 0);
  const bytes = documents.reduce<number | undefined>(
    (all, one) => (all === undefined || one.bytes === undefined ? undefined : all + one.bytes),
    0,
  );
  const meanNll = sum / tokens;
  return {
    result: {
      ...{ perplexity: Math.exp(meanNll), meanNll, tokens },
      bitsPerByte: bytes === undefined ? undefined : sum / Math.LN2 / bytes,
      documents: documents.length,
    },
    nll,
  };
}
