/**
 * The command line: its options, their defaults, and what is wrong with a bad one.
 */
import { Command, CommanderError, Option } from 'commander';
import { InvalidArgumentError, type KvDtype, kvDtypes, PagewiseError } from 'pagewise';
import type { EngineOptions } from 'pagewise/engine';
import { type NumberRule, numberRules, parseNumber } from '../shared/numbers.ts';

/** What generating and serving ask of the engine alike; undefined: the engine's default. */
export interface EngineFlags {
  readonly kvDtype: KvDtype | undefined;
  readonly blockSize: number | undefined;
  readonly subgroupMatrices: boolean;
  readonly launchCache: 'on' | 'off' | 'verify' | undefined;
  readonly runAhead: number | undefined;
  /** Tokens to guess by prompt lookup; undefined: none. */
  readonly speculate: number | undefined;
  /** A file that `npm run tune -- --output` wrote, as typed; undefined: what it keeps for this adapter. */
  readonly tuning: string | undefined;
}

/** What was asked for. A value that is undefined was not given: the model's files, then the engine, decide. */
export interface ProgramOptions extends EngineFlags {
  readonly prompt: string;
  /** A folder as typed, or an http(s) URL; undefined: the model that comes with Pagewise. */
  readonly model: string | undefined;
  readonly maxTokens: number;
  readonly temperature: number | undefined;
  readonly topK: number | undefined;
  readonly topP: number | undefined;
  readonly seed: number | undefined;
  /** Where to write a trace, as typed. */
  readonly trace: string | undefined;
  /** One JSON object on standard output instead of the text. */
  readonly json: boolean;
}

/** The command line cannot be understood. */
export class UsageError extends PagewiseError {
  override readonly name = 'UsageError';
}

const defaultMaxTokens = 256;

const examples = `
Examples:
  npm run generate -- "Once upon a time"
  npm run generate -- "One day, a small dog" --temperature 0 --max-tokens 64
  npm run generate -- "Deep in the forest" --model https://huggingface.co/HuggingFaceTB/SmolLM2-135M/resolve/main`;

/**
 * Reads the arguments behind the program's name. `--help` prints to standard output and gives undefined.
 *
 * @throws {UsageError} for an unknown option, a missing value or a missing prompt.
 * @throws {InvalidArgumentError} for a value out of its range; the message names the option and the range.
 */
export function readOptions(programArguments: readonly string[]): ProgramOptions | undefined {
  const command = createCommand();
  if (!parseArguments(command, programArguments)) return undefined;
  const prompt = command.args.join(' ');
  if (command.args.length === 0) throw new UsageError('there is no prompt. Give one: npm run generate -- "Once upon a time"');
  return { json: false, ...command.opts<Omit<ProgramOptions, 'prompt' | 'json'>>(), prompt };
}

/** What the engine is loaded with, as given: one sequence, and its own defaults otherwise. */
export function engineOptions({ kvDtype, blockSize, subgroupMatrices, launchCache, runAhead }: ProgramOptions): EngineOptions {
  return { maxSequences: 1, kvDtype, blockSize, subgroupMatrices, launchCache, runAhead };
}

/**
 * Has a command, named as it is called, read its arguments.
 *
 * @returns false when it printed its help instead.
 * @throws {UsageError} for what the command does not know.
 */
export function parseArguments(command: Command, programArguments: readonly string[]): boolean {
  try {
    command.parse(programArguments, { from: 'user' });
    return true;
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return false;
    throw new UsageError(`${error.message.replace(/^error: /, '').replaceAll(/\s+/g, ' ')}. See: ${command.name()} --help`);
  }
}

function createCommand(): Command {
  const command = new Command('npm run generate --')
    .description('Continues a text with a language model on WebGPU.')
    .argument('[prompt...]', 'the beginning of the text; several words are joined by spaces')
    .option('--model <folder or URL>', 'the Hugging Face files of a model (default: the story model that comes with Pagewise)')
    .addOption(numberOption('--max-tokens <number>', 'most tokens to write', numberRules.maxTokens).default(defaultMaxTokens))
    .addOption(numberOption('--temperature <number>', "0 = always the likeliest token (default: the model's)", numberRules.temperature))
    .addOption(numberOption('--top-k <number>', "sample among the k likeliest tokens, 0 = all (default: the model's)", numberRules.topK))
    .addOption(
      numberOption('--top-p <number>', "sample among tokens of this probability together (default: the model's)", numberRules.topP),
    )
    .addOption(numberOption('--seed <number>', 'same seed, same text (default: a new one each time)', numberRules.seed));
  return addEngineFlags(command)
    .option('--trace <file>', 'write a trace of host spans and GPU times, for https://ui.perfetto.dev (slows the run)')
    .option('--json', 'print one JSON object {text, promptIds, ids, adapter, stats} and no text')
    .helpOption('-h, --help', 'show this')
    .addHelpText('after', examples)
    .exitOverride()
    .configureOutput({ writeErr: () => {} });
}

/** Declares the options of `EngineFlags`. */
export function addEngineFlags(command: Command): Command {
  return command
    .addOption(choiceOption('--kv-dtype <type>', `how keys and values are stored: ${kvDtypes.join(', ')}`, kvDtypes))
    .addOption(numberOption('--block-size <number>', 'tokens of a block of the KV cache', numberRules.blockSize))
    .option('--no-subgroup-matrices', "compute in f32 throughout, not on the GPU's matrix units")
    .addOption(choiceOption('--launch-cache <mode>', 'on, off or verify', ['on', 'off', 'verify']))
    .addOption(numberOption('--run-ahead <number>', 'steps submitted before the first answer is back', numberRules.runAhead))
    .addOption(
      numberOption('--speculate <number>', 'guess so many tokens from the text so far and verify them in one step', numberRules.speculate),
    )
    .option('--tuning <file>', 'a file of npm run tune -- --output (default: what npm run tune found here)');
}

export function numberOption(flags: string, description: string, rule: NumberRule): Option {
  const option = new Option(flags, description);
  return option.argParser((text) => {
    const value = parseNumber(text, rule);
    if (value === undefined) throw new InvalidArgumentError(`--${option.name()}`, text, rule.expected);
    return value;
  });
}

export function choiceOption(flags: string, description: string, choices: readonly string[]): Option {
  const option = new Option(flags, description);
  return option.argParser((text) => {
    if (!choices.includes(text)) throw new InvalidArgumentError(`--${option.name()}`, text, choices.join(' or '));
    return text;
  });
}
