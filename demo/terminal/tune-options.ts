/** The command line of `npm run tune`. */
import { Command, InvalidArgumentError as Refusal } from 'commander';
import { type KvDtype, kvDtypes } from 'pagewise';
import { type NumberRule, numberRules } from '../shared/numbers.ts';
import { choiceOption, numberOption, parseArguments } from './options.ts';

/** Heads as `--shape` gives them. */
export interface Heads {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
}

export interface TuneProgramOptions {
  /** A folder as typed, or an http(s) URL; undefined: the model that comes with Pagewise. */
  readonly model: string | undefined;
  /** Instead of a model's. */
  readonly shape: Heads | undefined;
  readonly kvDtype: KvDtype;
  readonly blockSize: number;
  /** Seconds. */
  readonly budget: number;
  /** A file to write instead of what is kept for this adapter, as typed. */
  readonly output: string | undefined;
}

const seconds: NumberRule = { expected: 'a number of seconds above 0', integer: false, min: 0, max: 1e6, above: true };

const note = `
What is found is kept for this adapter, host and version, and npm run generate takes it from there.

Examples:
  npm run tune
  npm run tune -- --host node --kv-dtype f16 --budget 60
  npm run tune -- --shape 32/8x128 --kv-dtype f16 --output tuning.json`;

/**
 * Reads the arguments behind the program's name. `--help` prints to standard output and gives undefined.
 * @throws {UsageError} {InvalidArgumentError} as the terminal program's `readOptions`
 */
export function readTuneOptions(programArguments: readonly string[]): TuneProgramOptions | undefined {
  const command = new Command('npm run tune --')
    .description("Finds the fastest attention kernels for a model's heads on this GPU.")
    .option('--host <host>', 'deno or node (default: deno)')
    .option('--model <folder or URL>', 'the Hugging Face files of a model (default: the story model that comes with Pagewise)')
    .option('--shape <heads/KV heads x head size>', 'heads of no particular model, such as 32/8x128', readShape)
    .addOption(choiceOption('--kv-dtype <type>', `how keys and values are stored: ${kvDtypes.join(', ')}`, kvDtypes).default('f32'))
    .addOption(numberOption('--block-size <number>', 'tokens of a block of the KV cache', numberRules.blockSize).default(16))
    .addOption(numberOption('--budget <seconds>', 'after which nothing new is tried', seconds).default(60))
    .option('--output <file>', 'write the tuning there')
    .option('--driver <source>', 'as of npm run test:gpu')
    .helpOption('-h, --help', 'show this')
    .addHelpText('after', note)
    .allowExcessArguments(false)
    .exitOverride()
    .configureOutput({ writeErr: () => {} });
  if (!parseArguments(command, programArguments)) return undefined;
  return command.opts<TuneProgramOptions>();
}

function readShape(text: string): Heads {
  const [, numHeads, numKvHeads, headDim] = (/^(\d+)\/(\d+)x(\d+)$/.exec(text) ?? []).map(Number);
  if (!headDim) throw new Refusal('It must be query heads / KV heads x head size, such as 32/8x128');
  return { numHeads, numKvHeads, headDim };
}
