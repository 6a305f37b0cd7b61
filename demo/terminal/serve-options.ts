/** The command line of `npm run serve`. */
import { Command } from 'commander';
import type { EngineOptions } from 'pagewise/engine';
import { numberRules } from '../shared/numbers.ts';
import { addEngineFlags, type EngineFlags, numberOption, parseArguments } from './options.ts';

/** What was asked for; undefined: the engine's default. */
export interface ServeProgramOptions extends EngineFlags {
  readonly port: number;
  readonly host: string;
  /** A folder as typed, or an http(s) URL; undefined: the model that comes with Pagewise. */
  readonly model: string | undefined;
  /** The model's name in the API; undefined: that of its folder. */
  readonly name: string | undefined;
  /** A file of Jinja text, as typed. */
  readonly chatTemplate: string | undefined;
  readonly cors: readonly string[] | undefined;
  readonly maxSequences: number | undefined;
  readonly maxWaiting: number;
  readonly contextLength: number | undefined;
  readonly numBlocks: number | undefined;
  readonly maxTokensPerStep: number | undefined;
  readonly prefixCaching: boolean;
  /** Seconds. */
  readonly drain: number;
}

const examples = `
Examples:
  npm run serve
  npm run serve -- --port 8080 --host 0.0.0.0 --max-sequences 32 --kv-dtype f16
  npm run serve -- --model models/SmolLM2-135M-Instruct`;

/**
 * Reads the arguments behind the program's name. `--help` prints to standard output and gives undefined.
 * @throws {UsageError} {InvalidArgumentError} as the terminal program's `readOptions`
 */
export function readServeOptions(programArguments: readonly string[]): ServeProgramOptions | undefined {
  const count = (flags: string, description: string) => numberOption(flags, description, numberRules.count);
  const command = addEngineFlags(
    new Command('npm run serve --')
      .description("Serves a language model by OpenAI's API: /v1/completions, /v1/chat/completions, /v1/models, /health, /metrics.")
      .addOption(numberOption('--port <number>', '0 = any free one', numberRules.port).default(8000))
      .option('--host <address>', 'where to listen; 0.0.0.0 is everywhere', '127.0.0.1')
      .option('--model <folder or URL>', 'the Hugging Face files of a model (default: the story model that comes with Pagewise)')
      .option('--name <name>', "the model's name in the API (default: its folder's)")
      .option('--chat-template <file>', "a Jinja template for conversations (default: the model's own)")
      .option('--cors <origins...>', 'origins whose pages may ask, "*" for all')
      .addOption(count('--max-sequences <number>', 'most requests that run at once'))
      .addOption(count('--max-waiting <number>', 'most requests that wait; more get 503').default(256))
      .addOption(count('--context-length <number>', "longest prompt and answer together (default: the model's)"))
      .addOption(count('--num-blocks <number>', 'blocks of the KV cache'))
      .addOption(count('--max-tokens-per-step <number>', 'tokens of one step, of all requests together'))
      .option('--no-prefix-caching', 'compute every prompt anew'),
  )
    .addOption(count('--drain <seconds>', 'how long running requests may take after SIGTERM').default(30))
    .helpOption('-h, --help', 'show this')
    .addHelpText('after', examples)
    .allowExcessArguments(false)
    .exitOverride()
    .configureOutput({ writeErr: () => {} });
  if (!parseArguments(command, programArguments)) return undefined;
  return command.opts<ServeProgramOptions>();
}

/** What the engine is loaded with, as given: it has its own defaults. */
export function engineOptions(options: ServeProgramOptions): EngineOptions {
  const { maxSequences, maxWaiting, contextLength, numBlocks, maxTokensPerStep, prefixCaching } = options;
  const { kvDtype, blockSize, subgroupMatrices, launchCache, runAhead, speculate: numTokens } = options;
  return {
    ...{ maxSequences, maxWaiting, contextLength, numBlocks, maxTokensPerStep, prefixCaching },
    ...{ kvDtype, blockSize, subgroupMatrices, launchCache, runAhead },
    ...(numTokens !== undefined && { speculate: { numTokens } }),
  };
}
