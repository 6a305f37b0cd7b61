/** The command line of `npm run eval`. */
import { Command } from 'commander';
import { type KvDtype, kvDtypes, type LaunchCacheMode } from 'pagewise';
import { type NumberRule, numberRules } from '../shared/numbers.ts';
import { choiceOption, numberOption, parseArguments, UsageError } from '../terminal/options.ts';
import { defaultMaxTokens, defaultShotSeed } from './gsm8k.ts';

/** How to run a model, whatever is measured. */
interface ModelChoice {
  /** A folder as typed, or an http(s) URL; undefined: the model that comes with Pagewise. */
  readonly model: string | undefined;
  readonly kvDtype: KvDtype | undefined;
  readonly blockSize: number | undefined;
  readonly runAhead: number | undefined;
  readonly tuning: string | undefined;
  /** Modes of the launch cache to run with, one after the other; of several, the answers must be the same. */
  readonly launchCaches: readonly LaunchCacheMode[];
  /** Questions under way at once. */
  readonly concurrency: number;
  readonly json: boolean;
}

export interface PerplexityTask {
  readonly task: 'perplexity';
  /** As typed. */
  readonly file: string;
  /** Tokens of a window; undefined: the model's context. */
  readonly context: number | undefined;
  /** Tokens from a window to the next; undefined: half a window. */
  readonly stride: number | undefined;
}

export interface Gsm8kTask {
  readonly task: 'gsm8k';
  /** As typed. */
  readonly file: string;
  /** Where the worked examples come from, as typed; undefined where there are none. */
  readonly train: string | undefined;
  readonly shots: number;
  /** The first so many questions; undefined: all. */
  readonly limit: number | undefined;
  readonly maxTokens: number;
  readonly shotSeed: number;
}

export type EvalOptions = ModelChoice & { readonly measure: PerplexityTask | Gsm8kTask };

const shotsRule: NumberRule = { expected: 'an integer from 0 to 64', integer: true, min: 0, max: 64 };
const countRule = numberRules.maxTokens;
const contextRule: NumberRule = { expected: 'an integer of at least 2', integer: true, min: 2, max: Number.MAX_SAFE_INTEGER };

const examples = `
Examples:
  npm run eval -- --perplexity book.txt
  npm run eval -- --gsm8k test.jsonl --train train.jsonl --limit 500 --compare --model <folder>`;

interface Typed extends Omit<ModelChoice, 'launchCaches' | 'concurrency' | 'json'>, Omit<Gsm8kTask, 'task' | 'file'> {
  readonly perplexity?: string;
  readonly gsm8k?: string;
  readonly context?: number;
  readonly stride?: number;
  readonly launchCache: LaunchCacheMode;
  readonly compare?: boolean;
  readonly concurrency?: number;
  readonly json?: boolean;
}

/**
 * Reads the arguments behind the program's name. `--help` prints to standard output and gives undefined.
 * @throws {UsageError} {InvalidArgumentError} as the terminal program's `readOptions`
 */
export function readEvalOptions(programArguments: readonly string[]): EvalOptions | undefined {
  const command = createCommand();
  if (!parseArguments(command, programArguments)) return undefined;
  const typed = command.opts<Typed>();
  const { perplexity, gsm8k, context, stride, train, shots, limit, maxTokens, shotSeed, compare, launchCache, concurrency, ...rest } =
    typed;
  if ((perplexity === undefined) === (gsm8k === undefined)) throw refusal('give either --perplexity or --gsm8k, with a file');
  if (gsm8k !== undefined && shots > 0 && train === undefined)
    throw refusal('--shots needs --train, the file of the worked examples (--shots 0: none)');
  return {
    ...rest,
    json: rest.json ?? false,
    launchCaches: compare ? ['on', 'off', 'verify'] : [launchCache],
    // What shares a step with a question may change how its sums are rounded: compared answers are asked for one by one.
    concurrency: concurrency ?? (compare ? 1 : 8),
    measure:
      perplexity === undefined
        ? { task: 'gsm8k', file: gsm8k ?? '', train, shots, limit, maxTokens, shotSeed }
        : { task: 'perplexity', file: perplexity, context, stride },
  };
}

function refusal(problem: string): UsageError {
  return new UsageError(`${problem}. See: npm run eval -- --help`);
}

function createCommand(): Command {
  return new Command('npm run eval --')
    .description('Measures how well a model does: perplexity over a text, or the GSM8K task of lm-evaluation-harness.')
    .option('--perplexity <file>', 'a text, or with the name .jsonl lines of {"text"} or {"ids"}, a document each')
    .addOption(numberOption('--context <number>', "tokens of a window (default: the model's context)", contextRule))
    .addOption(numberOption('--stride <number>', 'tokens from a window to the next (default: half a window)', countRule))
    .option('--gsm8k <file>', 'JSON lines of {"question", "answer"}; answers end with "#### number"')
    .option('--train <file>', 'such a file to draw the worked examples from')
    .addOption(numberOption('--shots <number>', 'worked examples before each question', shotsRule).default(5))
    .addOption(numberOption('--shot-seed <number>', "what they are drawn with; the harness's", numberRules.seed).default(defaultShotSeed))
    .addOption(numberOption('--limit <number>', 'only the first so many questions', countRule))
    .addOption(numberOption('--max-tokens <number>', 'most tokens of a response', countRule).default(defaultMaxTokens))
    .addOption(numberOption('--concurrency <number>', 'questions under way at once (default: 8; 1 with --compare)', countRule))
    .option('--host <host>', 'deno or node (default: deno)')
    .option('--model <folder or URL>', 'the Hugging Face files of a model (default: the story model that comes with Pagewise)')
    .addOption(choiceOption('--kv-dtype <type>', `how keys and values are stored: ${kvDtypes.join(', ')}`, kvDtypes))
    .addOption(numberOption('--block-size <number>', 'tokens of a block of the KV cache', numberRules.blockSize))
    .addOption(choiceOption('--launch-cache <mode>', 'on, off or verify', ['on', 'off', 'verify']).default('on'))
    .option('--compare', 'run with the launch cache on, off and in verify; fail unless all answers are the same')
    .addOption(numberOption('--run-ahead <number>', 'steps submitted before the first answer is back', numberRules.runAhead))
    .option('--tuning <file>', 'a file of npm run tune -- --output (default: what npm run tune found here)')
    .option('--json', 'print one JSON object with every answer, and no table')
    .option('--driver <source>', 'as of npm run test:gpu')
    .helpOption('-h, --help', 'show this')
    .addHelpText('after', examples)
    .allowExcessArguments(false)
    .exitOverride()
    .configureOutput({ writeErr: () => {} });
}
