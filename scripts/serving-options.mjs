/** The options of the benches "serving" and "soak", for the launcher and for the programs that it starts. */

/** As `parseArgs` takes them. */
export const servingOptions = /** @type {const} */ ({
  url: { type: 'string' },
  model: { type: 'string' },
  dataset: { type: 'string' },
  'num-prompts': { type: 'string' },
  'random-input-len': { type: 'string' },
  'random-output-len': { type: 'string' },
  'random-range-ratio': { type: 'string' },
  'request-rate': { type: 'string' },
  burstiness: { type: 'string' },
  'max-concurrency': { type: 'string' },
  'ignore-eos': { type: 'boolean' },
  'no-ignore-eos': { type: 'boolean' },
  seed: { type: 'string' },
  'launch-cache': { type: 'string' },
  goodput: { type: 'string', multiple: true },
  'max-sequences': { type: 'string' },
  'max-tokens-per-step': { type: 'string' },
  'context-length': { type: 'string' },
  'num-blocks': { type: 'string' },
  'block-size': { type: 'string' },
  'kv-dtype': { type: 'string' },
  'run-ahead': { type: 'string' },
  'no-prefix-caching': { type: 'boolean' },
  'no-subgroup-matrices': { type: 'boolean' },
  minutes: { type: 'string' },
  streams: { type: 'string' },
});

export const servingHelp = `Options of serving and soak:
  --url URL                  a server elsewhere instead of an engine in the bench's process
  --model NAME               shipped (default), a folder, or made-up weights: synthetic:llama-3.2-1b, synthetic:tiny
                             (with --url: whose tokenizer counts tokens)
  --dataset FILE             conversations as ShareGPT has them; default: token ids at random, by
    --random-input-len N, --random-output-len N, --random-range-ratio R (256, 64, 0; uniform in N (1 - R) .. N (1 + R))
  --num-prompts N            default 100
  --request-rate R           requests per second, or inf (default)
  --burstiness B             shape of the Gamma distribution of intervals; 1 (default) is a Poisson process
  --max-concurrency N        most requests on their way at once
  --no-ignore-eos            let the model end before the length asked for
  --seed N                   default 0
  --launch-cache on|off|both default on; both runs off, then on
  --goodput ttft:MS tpot:MS e2el:MS   counts requests that keep these limits
  --max-sequences N (64), --max-tokens-per-step N, --context-length N, --num-blocks N, --block-size N, --kv-dtype T, --run-ahead N,
  --no-prefix-caching, --no-subgroup-matrices
                             of the engine in the bench's process, as --launch-cache; with --url they are the server's (--context-length then
                             only leaves out conversations of --dataset)
  --minutes N, --streams N   of soak: how long, and how many at once (1, 64)`;

/**
 * @typedef {object} ServingOptions what was asked for; the engine decides what is undefined
 * @property {string | undefined} url
 * @property {string} model
 * @property {string | undefined} dataset an absolute path
 * @property {number} numPrompts
 * @property {{ input: number, output: number, rangeRatio: number }} lengths
 * @property {number} requestRate
 * @property {number} burstiness
 * @property {number | undefined} maxConcurrency
 * @property {boolean} ignoreEos
 * @property {number} seed
 * @property {'on' | 'off' | 'both'} launchCache
 * @property {{ ttft?: number, tpot?: number, e2el?: number } | undefined} goodput
 * @property {{ maxSequences: number, maxTokensPerStep?: number, contextLength?: number, numBlocks?: number, blockSize?: number,
 *   kvDtype?: import('../src/attention/layout.ts').KvDtype, runAhead?: number, prefixCaching: boolean, subgroupMatrices: boolean }} engine
 * @property {number} minutes
 * @property {number} streams
 *
 * @typedef {Readonly<Record<string, string | boolean | string[] | undefined>>} Values as `parseArgs` gives them
 */

/** Options that say how the engine in the bench's process is loaded. */
const engineOptions = /** @type {const} */ ([
  'launch-cache',
  'max-sequences',
  'max-tokens-per-step',
  'context-length',
  'num-blocks',
  'block-size',
  'kv-dtype',
  'run-ahead',
  'no-prefix-caching',
  'no-subgroup-matrices',
]);

/** A server has an engine of its own, loaded before. @param {Values} values */
function refuseEngineOptions(values) {
  // The context also says which conversations of a file are left out.
  const used = values.dataset === undefined ? [] : ['context-length'];
  const name = engineOptions.find((one) => values[one] !== undefined && values[one] !== false && !used.includes(one));
  if (name === undefined) return;
  const remedy =
    values[name] === 'both'
      ? 'Start one server with --launch-cache off and one with --launch-cache on, and ask each.'
      : `Leave it out, and start the server with it: npm run serve -- --${name}${values[name] === true ? '' : ` ${values[name]}`}`;
  throw new Error(`--${name} is of an engine in the bench's process, but --url names a server, which has its own. ${remedy}`);
}

/**
 * @param {Values} values
 * @param {readonly string[]} [rest] positionals behind the bench's name: `--goodput ttft:200 tpot:20` leaves its second word there
 * @returns {ServingOptions}
 */
export function readServingOptions(values, rest = []) {
  if (rest.length > 0 && values.goodput === undefined) throw new Error(`"${rest[0]}" is no option. Name one bench, and see --help.`);
  if (values.url !== undefined) refuseEngineOptions(values);
  const launchCache = values['launch-cache'] ?? 'on';
  if (launchCache !== 'on' && launchCache !== 'off' && launchCache !== 'both') throw new Error('--launch-cache is on, off or both.');
  const integer = (/** @type {string} */ name, least = 1) =>
    number(values, name, `an integer of at least ${least}`, (value) => Number.isInteger(value) && value >= least);
  const positive = (/** @type {string} */ name) => number(values, name, 'a number above 0', (value) => value > 0);
  return {
    url: text(values.url),
    model: text(values.model) ?? 'shipped',
    dataset: text(values.dataset),
    numPrompts: integer('num-prompts') ?? 100,
    lengths: {
      input: integer('random-input-len') ?? 256,
      output: integer('random-output-len') ?? 64,
      rangeRatio: number(values, 'random-range-ratio', 'a number from 0, below 1', (value) => value >= 0 && value < 1) ?? 0,
    },
    requestRate: values['request-rate'] === 'inf' ? Number.POSITIVE_INFINITY : (positive('request-rate') ?? Number.POSITIVE_INFINITY),
    burstiness: positive('burstiness') ?? 1,
    maxConcurrency: integer('max-concurrency'),
    ignoreEos: values['no-ignore-eos'] !== true,
    seed: integer('seed', 0) ?? 0,
    launchCache,
    goodput: readGoodput([...(Array.isArray(values.goodput) ? values.goodput : []), ...rest]),
    engine: {
      maxSequences: integer('max-sequences') ?? 64,
      maxTokensPerStep: integer('max-tokens-per-step'),
      contextLength: integer('context-length'),
      numBlocks: integer('num-blocks'),
      blockSize: integer('block-size'),
      kvDtype: /** @type {import('../src/attention/layout.ts').KvDtype | undefined} */ (text(values['kv-dtype'])),
      runAhead: integer('run-ahead'),
      prefixCaching: values['no-prefix-caching'] !== true,
      subgroupMatrices: values['no-subgroup-matrices'] !== true,
    },
    minutes: positive('minutes') ?? 1,
    streams: integer('streams') ?? 64,
  };
}

/** The same options as arguments again. @param {Values} values */
export function servingArguments(values) {
  return Object.keys(servingOptions).flatMap((name) => {
    const value = values[name];
    if (value === undefined || value === false) return [];
    if (value === true) return [`--${name}`];
    return [value].flat().flatMap((one) => [`--${name}`, String(one)]);
  });
}

/** @param {readonly string[]} words */
function readGoodput(words) {
  if (words.length === 0) return undefined;
  const pairs = words
    .flatMap((word) => word.split(/\s+/))
    .map((word) => {
      const [, name, limit] = /^(ttft|tpot|e2el):(\d+(?:\.\d+)?)$/.exec(word) ?? [];
      if (!name) throw new Error(`--goodput has "${word}", but takes limits such as ttft:200 tpot:20 e2el:3000, in milliseconds.`);
      return [name, Number(limit)];
    });
  return Object.fromEntries(pairs);
}

/** @param {Values} values @param {string} name @param {string} expected @param {(value: number) => boolean} allowed */
function number(values, name, expected, allowed) {
  const given = values[name];
  if (given === undefined) return undefined;
  const value = Number(given);
  if (!allowed(value)) throw new Error(`--${name} is ${JSON.stringify(given)}, but must be ${expected}.`);
  return value;
}

/** @param {string | boolean | string[] | undefined} value */
function text(value) {
  return typeof value === 'string' ? value : undefined;
}
