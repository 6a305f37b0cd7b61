/**
 * Reads a Hugging Face `generation_config.json`: what its authors recommend for sampling.
 */
import { jsonFields } from './json.ts';

/** Sampling where the caller asks for nothing else. */
export interface GenerationDefaults {
  /** 0 = greedy. */
  readonly temperature: number;
  /** Sample among the k likeliest tokens; 0 = all. */
  readonly topK: number;
  /** Sample among the fewest tokens whose probabilities reach this sum; 1 = all. */
  readonly topP: number;
  /** Tokens that end a generation; undefined when the file names none, so that config.json's count. */
  readonly eosTokenIds: readonly number[] | undefined;
}

/**
 * Temperature 0.7, top-k 40 and top-p 1 stand in for each value that the file leaves out; `do_sample: false` means greedy.
 * Penalties, beams and the like are not read.
 *
 * @param json the parsed file, or undefined when the model has none.
 * @param file its name, for errors.
 * @throws {ModelFileError} when a value is malformed; the message names the key.
 */
export function parseGenerationConfig(json: unknown, file = 'generation_config.json'): GenerationDefaults {
  const fields = jsonFields(json === undefined ? {} : json, file);
  const temperature = fields.number('temperature', 'a number of at least 0', (value) => value >= 0, 0.7);
  return {
    temperature: fields.boolean('do_sample', true) ? temperature : 0,
    topK: fields.integer('top_k', 0, 40),
    topP: fields.number('top_p', 'a number above 0 and at most 1', (value) => value > 0 && value <= 1, 1),
    eosTokenIds: fields.tokenIds('eos_token_id'),
  };
}
