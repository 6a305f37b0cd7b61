/**
 * Reads a Hugging Face `config.json` into the few facts that the forward pass needs.
 *
 * What would change the result but is not implemented is refused by name: a model either runs as its authors meant it, or not at all.
 */
import { UnsupportedModelError } from '../errors.ts';
import { type ModelFiles, readJson } from './files.ts';
import { type JsonFields, jsonFields } from './json.ts';

/** A decoder-only transformer, as far as its shapes and constants go. */
export interface ModelConfig {
  readonly architecture: 'LlamaForCausalLM' | 'MistralForCausalLM';
  /** Rows of the embedding and length of the logits. */
  readonly vocabSize: number;
  /** Width of the residual stream. */
  readonly hiddenSize: number;
  /** Width inside the feed-forward block. */
  readonly intermediateSize: number;
  readonly numLayers: number;
  /** Query heads; a multiple of `numKvHeads`. */
  readonly numHeads: number;
  readonly numKvHeads: number;
  /** Elements of one head; `numHeads * headDim` need not be `hiddenSize`. */
  readonly headDim: number;
  /** Most positions of one sequence. */
  readonly contextLength: number;
  /** Keys that a token sees in every layer, itself among them. Undefined: all before it. */
  readonly slidingWindow: number | undefined;
  readonly rmsNormEps: number;
  readonly rope: RopeConfig;
  /** The q, k, v and o projections have biases. */
  readonly attentionBias: boolean;
  /** The gate, up and down projections have biases. */
  readonly mlpBias: boolean;
  /** The logits use the embedding's weights; there is no `lm_head.weight`. */
  readonly tieWordEmbeddings: boolean;
  readonly activation: 'silu';
  /** Put in front of every prompt. Undefined: none is named here (the tokenizer may know one). */
  readonly bosTokenId: number | undefined;
  /** Each of them ends a generation. `generation_config.json`, where it names some, takes precedence. */
  readonly eosTokenIds: readonly number[];
}

/** How positions become rotation angles; see rotary.ts for the formulas. `theta` is the base of the frequencies. */
export type RopeConfig =
  | { readonly type: 'default'; readonly theta: number }
  | { readonly type: 'linear'; readonly theta: number; readonly factor: number }
  | {
      readonly type: 'llama3';
      readonly theta: number;
      readonly factor: number;
      readonly lowFrequencyFactor: number;
      readonly highFrequencyFactor: number;
      readonly originalContextLength: number;
    }
  | {
      readonly type: 'yarn';
      readonly theta: number;
      readonly factor: number;
      readonly originalContextLength: number;
      /** Rotations over the original context above which a frequency is kept as it is. */
      readonly betaFast: number;
      /** Rotations below which a frequency is divided by `factor`. */
      readonly betaSlow: number;
      /** Round the ends of the ramp between the two to whole dimensions. */
      readonly truncate: boolean;
      /** Multiplies cos and sin; undefined: from `factor` and the two below. */
      readonly attentionFactor: number | undefined;
      readonly mscale: number | undefined;
      readonly mscaleAllDim: number | undefined;
    };

interface Architecture {
  /** As in `architectures` of config.json. */
  readonly name: string;
  /** As in `model_type` of config.json, which decides when `architectures` is absent. */
  readonly modelType: string;
  readonly parse: (fields: JsonFields) => ModelConfig;
}

const architectures: readonly Architecture[] = [
  { name: 'LlamaForCausalLM', modelType: 'llama', parse: parseLlama },
  { name: 'MistralForCausalLM', modelType: 'mistral', parse: parseMistral },
];

const ropeTypes = ['default', 'linear', 'llama3', 'yarn'];

/** Reads a model's config.json. @throws {ModelFileError} @throws {UnsupportedModelError} as `Engine.load` does */
export async function readModelConfig(files: ModelFiles): Promise<ModelConfig> {
  return parseModelConfig(await readJson(files, 'config.json'));
}

/**
 * @param json the parsed content of config.json.
 * @param file its name, for errors.
 * @throws {ModelFileError} when a value is missing or malformed; the message names the key.
 * @throws {UnsupportedModelError} when the architecture or an option is not implemented; the message names it and what is supported.
 */
export function parseModelConfig(json: unknown, file = 'config.json'): ModelConfig {
  const fields = jsonFields(json, file);
  const names = fields.raw('architectures') ?? [];
  if (!Array.isArray(names)) return fields.fail('architectures', 'an array of names');
  const modelType = fields.string('model_type', '');
  const architecture = architectures.find(({ name, modelType: type }) => (names.length > 0 ? names.includes(name) : type === modelType));
  if (!architecture) {
    const asked = names.length > 0 ? names.join(', ') : modelType || '(none named)';
    throw new UnsupportedModelError(
      `Architecture ${asked} of ${file}`,
      architectures.map(({ name }) => name),
    );
  }
  return architecture.parse(fields);
}

function parseLlama(fields: JsonFields): ModelConfig {
  if (fields.raw('sliding_window') !== undefined && fields.boolean('use_sliding_window', true)) {
    refuse(fields, 'sliding_window', 'full attention');
  }
  refuseUnimplemented(fields, 'full_attention');
  return parseDecoder(fields, {
    architecture: 'LlamaForCausalLM',
    numKvHeads: fields.integer('num_key_value_heads', 1, fields.integer('num_attention_heads', 1)),
    slidingWindow: undefined,
    attentionBias: fields.boolean('attention_bias', false),
    mlpBias: fields.boolean('mlp_bias', false),
  });
}

/**
 * Mistral (Jiang et al. 2023): Llama without biases, with one sliding window for all layers or none. What is left out is as in transformers' `MistralConfig`,
 * where a window that is left out is 4096, and none is null.
 */
function parseMistral(fields: JsonFields): ModelConfig {
  const slidingWindow =
    fields.has('sliding_window') && fields.raw('sliding_window') === undefined ? undefined : fields.integer('sliding_window', 1, 4096);
  if (slidingWindow !== undefined && !fields.boolean('use_sliding_window', true)) {
    refuse(fields, 'use_sliding_window', 'true, or "sliding_window": null for full attention');
  }
  for (const key of ['attention_bias', 'mlp_bias']) if (fields.boolean(key, false)) refuse(fields, key, 'false');
  refuseUnimplemented(fields, slidingWindow === undefined ? 'full_attention' : 'sliding_attention');
  const numKvHeads = fields.has('num_key_value_heads') ? fields.integer('num_attention_heads', 1) : 8;
  return parseDecoder(fields, {
    architecture: 'MistralForCausalLM',
    numKvHeads: fields.integer('num_key_value_heads', 1, numKvHeads),
    slidingWindow,
    attentionBias: false,
    mlpBias: false,
  });
}

type Particulars = Pick<ModelConfig, 'architecture' | 'numKvHeads' | 'slidingWindow' | 'attentionBias' | 'mlpBias'>;

/** What the architectures have in common. */
function parseDecoder(fields: JsonFields, particulars: Particulars): ModelConfig {
  const { numKvHeads } = particulars;
  const hiddenSize = fields.integer('hidden_size', 1);
  const numHeads = fields.integer('num_attention_heads', 1);
  if (numHeads % numKvHeads !== 0) fields.fail('num_key_value_heads', `a divisor of num_attention_heads (${numHeads})`);
  if (fields.raw('head_dim') === undefined && hiddenSize % numHeads !== 0) {
    fields.fail('num_attention_heads', `a divisor of hidden_size (${hiddenSize}) where there is no head_dim`);
  }
  const headDim = fields.integer('head_dim', 1, hiddenSize / numHeads);
  const intermediateSize = fields.integer('intermediate_size', 1);
  for (const [key, value] of Object.entries({ hidden_size: hiddenSize, head_dim: headDim, intermediate_size: intermediateSize })) {
    if (value % 8 !== 0) throw new UnsupportedModelError(`"${key}": ${value} of ${fields.file}`, ['multiples of 8']);
  }
  const contextLength = fields.integer('max_position_embeddings', 1);
  return {
    ...particulars,
    vocabSize: fields.integer('vocab_size', 1),
    hiddenSize,
    intermediateSize,
    numLayers: fields.integer('num_hidden_layers', 1),
    numHeads,
    headDim,
    contextLength,
    rmsNormEps: fields.number('rms_norm_eps', 'a positive number', (value) => value > 0, 1e-6),
    rope: parseRope(fields, contextLength),
    tieWordEmbeddings: fields.boolean('tie_word_embeddings', false),
    activation: 'silu',
    bosTokenId: fields.tokenIds('bos_token_id')?.[0],
    eosTokenIds: fields.tokenIds('eos_token_id') ?? [],
  };
}

/** `pretraining_tp` is not among them: it only splits the same sums, and transformers 5 ignores it too. @param layerType of all layers. */
function refuseUnimplemented(fields: JsonFields, layerType: 'full_attention' | 'sliding_attention'): void {
  if (fields.string('hidden_act', 'silu') !== 'silu') refuse(fields, 'hidden_act', 'silu');
  if (fields.raw('quantization_config') !== undefined) refuse(fields, 'quantization_config', 'weights in F32, F16 or BF16');
  const layerTypes = fields.raw('layer_types');
  if (Array.isArray(layerTypes) && layerTypes.some((type) => type !== layerType)) refuse(fields, 'layer_types', layerType);
}

function refuse(fields: JsonFields, key: string, supported: string): never {
  throw new UnsupportedModelError(`"${key}": ${JSON.stringify(fields.raw(key))} of ${fields.file}`, [supported]);
}

/**
 * Both ways to write it down: `rope_parameters` (transformers 5), or `rope_theta` beside `rope_scaling` (before); the old key wins where
 * both are, and values are looked for in the order of transformers 5.17 (`RotaryEmbeddingConfigMixin.convert_rope_params_to_dict`).
 */
function parseRope(fields: JsonFields, contextLength: number): RopeConfig {
  const scaling = fields.object('rope_scaling');
  const rope =
    scaling && !isEmpty(fields.raw('rope_scaling')) ? scaling : (fields.object('rope_parameters') ?? jsonFields({}, fields.file));
  if (fields.object('rope_parameters')?.raw('full_attention') !== undefined) {
    throw new UnsupportedModelError(`"rope_parameters" per layer type of ${fields.file}`, ['one for all layers']);
  }
  const type = rope.string('rope_type', rope.string('type', 'default'));
  if (!ropeTypes.includes(type)) throw new UnsupportedModelError(`Rotary embedding of type "${type}" of ${fields.file}`, ropeTypes);
  const rotated = rope.raw('partial_rotary_factor') ?? fields.raw('partial_rotary_factor') ?? 1;
  if (rotated !== 1) {
    throw new UnsupportedModelError(`"partial_rotary_factor": ${JSON.stringify(rotated)} of ${fields.file}`, [
      '1 (whole heads are rotated)',
    ]);
  }

  const positive = (from: JsonFields, key: string, fallback?: number): number =>
    from.number(key, 'a positive number', (value) => value > 0, fallback);
  const optional = (key: string): number | undefined =>
    rope.raw(key) === undefined ? undefined : rope.number(key, 'a number', () => true);
  const theta = rope.raw('rope_theta') === undefined ? positive(fields, 'rope_theta', 10000) : positive(rope, 'rope_theta');
  if (type === 'default') return { type, theta };
  if (type === 'linear') return { type, theta, factor: positive(rope, 'factor') };

  const outside = fields.raw('original_max_position_embeddings') !== undefined;
  const originalContextLength = positive(outside ? fields : rope, 'original_max_position_embeddings', contextLength);
  if (type === 'llama3') {
    const lowFrequencyFactor = positive(rope, 'low_freq_factor');
    const highFrequencyFactor = positive(rope, 'high_freq_factor');
    if (highFrequencyFactor <= lowFrequencyFactor) rope.fail('high_freq_factor', `greater than low_freq_factor (${lowFrequencyFactor})`);
    return { type, theta, factor: positive(rope, 'factor'), lowFrequencyFactor, highFrequencyFactor, originalContextLength };
  }
  return {
    type: 'yarn',
    theta,
    factor: positive(rope, 'factor', contextLength / originalContextLength),
    originalContextLength,
    betaFast: optional('beta_fast') || 32, // 0 counts as absent, as in transformers
    betaSlow: optional('beta_slow') || 1,
    truncate: rope.boolean('truncate', true),
    attentionFactor: optional('attention_factor'),
    mscale: optional('mscale'),
    mscaleAllDim: optional('mscale_all_dim'),
  };
}

function isEmpty(value: unknown): boolean {
  return typeof value === 'object' && value !== null && Object.keys(value).length === 0;
}
