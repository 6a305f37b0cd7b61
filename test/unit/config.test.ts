import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parseModelConfig } from '../../src/engine/config.ts';
import { parseGenerationConfig } from '../../src/engine/generation-config.ts';
import { ModelFileError, UnsupportedModelError } from '../../src/errors.ts';

const readJson = (path: string): unknown => JSON.parse(readFileSync(path, 'utf8'));

/** The least that a Llama config may say. */
const least = {
  architectures: ['LlamaForCausalLM'],
  vocab_size: 100,
  hidden_size: 64,
  intermediate_size: 160,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  max_position_embeddings: 512,
};

const parse = (changes: Record<string, unknown> = {}) => parseModelConfig({ ...least, ...changes });

describe('parseModelConfig', () => {
  it('reads the model that ships', () => {
    expect(parseModelConfig(readJson('demo/model/config.json'))).toEqual({
      architecture: 'LlamaForCausalLM',
      vocabSize: 4096,
      hiddenSize: 320,
      intermediateSize: 768,
      numLayers: 6,
      numHeads: 8,
      numKvHeads: 2,
      headDim: 64,
      contextLength: 1024,
      rmsNormEps: 1e-5,
      rope: { type: 'default', theta: 10000 },
      attentionBias: false,
      mlpBias: false,
      tieWordEmbeddings: true,
      activation: 'silu',
      bosTokenId: 0,
      eosTokenIds: [0],
    });
  });

  it('fills in what older configs leave out', () => {
    expect(parse()).toMatchObject({
      numKvHeads: 4,
      headDim: 16,
      rmsNormEps: 1e-6,
      rope: { type: 'default', theta: 10000 },
      attentionBias: false,
      mlpBias: false,
      tieWordEmbeddings: false,
      bosTokenId: undefined,
      eosTokenIds: [],
    });
    const nulls = { head_dim: null, num_key_value_heads: null, rope_scaling: null, sliding_window: null, eos_token_id: null };
    expect(parse(nulls)).toEqual(parse());
  });

  it.each([
    ['llama', {}],
    ['llama-bias', { attentionBias: true, mlpBias: true, numKvHeads: 4 }],
    ['llama-linear-rope', { rope: { type: 'linear', theta: 10000, factor: 4 } }],
    [
      'llama3-rope',
      { tieWordEmbeddings: true, rope: expect.objectContaining({ type: 'llama3', theta: 500000, originalContextLength: 64 }) },
    ],
    [
      'llama-yarn',
      { rope: expect.objectContaining({ type: 'yarn', factor: 4, originalContextLength: 128, betaFast: 32, betaSlow: 1, truncate: true }) },
    ],
  ])('reads %s', (name, expected) => {
    expect(parseModelConfig(readJson(`test/golden/fixtures/${name}/config.json`))).toMatchObject(expected);
  });

  it('takes several end tokens', () => {
    expect(parse({ eos_token_id: [1, 7], bos_token_id: 5 })).toMatchObject({ eosTokenIds: [1, 7], bosTokenId: 5 });
  });

  it('goes by the model type when no architecture is named', () => {
    expect(parse({ architectures: undefined, model_type: 'llama' }).architecture).toBe('LlamaForCausalLM');
  });

  it.each<[Record<string, unknown>, string]>([
    [
      { architectures: ['BloomForCausalLM'] },
      'Architecture BloomForCausalLM of config.json is not supported. Supported: LlamaForCausalLM, MistralForCausalLM.',
    ],
    [{ architectures: null, model_type: 'gpt2' }, 'Architecture gpt2 of config.json is not supported.'],
    [{ architectures: null }, 'Architecture (none named) of config.json'],
    [{ hidden_act: 'gelu' }, '"hidden_act": "gelu" of config.json is not supported. Supported: silu.'],
    [{ quantization_config: { bits: 4 } }, '"quantization_config": {"bits":4} of config.json'],
    [{ sliding_window: 128 }, '"sliding_window": 128'],
    [{ layer_types: ['full_attention', 'sliding_attention'] }, '"layer_types"'],
    [
      { rope_scaling: { type: 'dynamic', factor: 2 } },
      'Rotary embedding of type "dynamic" of config.json is not supported. Supported: default, linear, llama3, yarn.',
    ],
    [{ rope_parameters: { rope_type: 'longrope', rope_theta: 1e4 } }, 'type "longrope"'],
    [{ rope_parameters: { full_attention: { rope_type: 'default' } } }, '"rope_parameters" per layer type'],
    [{ partial_rotary_factor: 0.5 }, '"partial_rotary_factor": 0.5'],
    [{ head_dim: 20 }, '"head_dim": 20 of config.json is not supported. Supported: multiples of 8.'],
    [{ hidden_size: 100, head_dim: 16 }, '"hidden_size": 100'],
    [{ intermediate_size: 161 }, '"intermediate_size": 161'],
  ])('refuses %j', (changes, message) => {
    expect(() => parse(changes)).toThrow(UnsupportedModelError);
    expect(() => parse(changes)).toThrow(message);
  });

  it.each<[Record<string, unknown>, string]>([
    [{ vocab_size: undefined }, 'Model file config.json: "vocab_size" is missing, but must be an integer of at least 1.'],
    [{ hidden_size: '64' }, '"hidden_size" is "64", but must be an integer of at least 1.'],
    [{ num_hidden_layers: 0 }, '"num_hidden_layers" is 0'],
    [{ intermediate_size: 1.5 }, '"intermediate_size" is 1.5'],
    [{ num_attention_heads: null }, '"num_attention_heads" is missing'],
    [{ num_key_value_heads: 3 }, '"num_key_value_heads" is 3, but must be a divisor of num_attention_heads (4).'],
    [{ num_attention_heads: 5 }, '"num_attention_heads" is 5, but must be a divisor of hidden_size (64) where there is no head_dim.'],
    [{ max_position_embeddings: -1 }, '"max_position_embeddings" is -1'],
    [{ rms_norm_eps: 0 }, '"rms_norm_eps" is 0, but must be a positive number.'],
    [{ tie_word_embeddings: 'yes' }, '"tie_word_embeddings" is "yes", but must be true or false.'],
    [{ eos_token_id: [1, 'x'] }, '"eos_token_id" is [1,"x"], but must be a token id or an array of them.'],
    [{ architectures: 'LlamaForCausalLM' }, '"architectures" is "LlamaForCausalLM", but must be an array of names.'],
    [{ hidden_act: 3 }, '"hidden_act" is 3, but must be a text.'],
    [{ rope_theta: -1 }, '"rope_theta" is -1, but must be a positive number.'],
    [{ rope_parameters: [] }, '"rope_parameters" is not a JSON object.'],
    [{ rope_parameters: { rope_type: 'linear' } }, '"rope_parameters.factor" is missing'],
    [{ rope_scaling: { type: 'llama3', factor: 8, low_freq_factor: 4 } }, '"rope_scaling.high_freq_factor" is missing'],
    [{ rope_scaling: { type: 'llama3', factor: 8, low_freq_factor: 4, high_freq_factor: 4 } }, 'must be greater than low_freq_factor (4)'],
    [{ rope_scaling: { type: 'yarn', factor: 2, beta_fast: 'x' } }, '"rope_scaling.beta_fast" is "x", but must be a number.'],
  ])('names the key of %j', (changes, message) => {
    expect(() => parse(changes)).toThrow(ModelFileError);
    expect(() => parse(changes)).toThrow(message);
  });

  it.each([null, [], 'text', 3])('refuses %j as a config', (json) => {
    expect(() => parseModelConfig(json)).toThrow('Model file config.json: its content is not a JSON object.');
  });
});

describe('Mistral', () => {
  const mistral = { architectures: ['MistralForCausalLM'], num_key_value_heads: 2 };

  it('is Llama with one window for all layers, or none', () => {
    expect(parse({ ...mistral, sliding_window: 40 })).toEqual({
      ...parse({ num_key_value_heads: 2 }),
      ...{ architecture: 'MistralForCausalLM', slidingWindow: 40 },
    });
    expect(parse({ ...mistral, sliding_window: null }).slidingWindow).toBeUndefined();
    expect(parse({ ...mistral, sliding_window: 40, layer_types: ['sliding_attention', 'sliding_attention'] }).slidingWindow).toBe(40);
    expect(parse({ ...mistral, sliding_window: null, layer_types: ['full_attention'] }).slidingWindow).toBeUndefined();
    expect(parse({ ...mistral, architectures: undefined, model_type: 'mistral' }).architecture).toBe('MistralForCausalLM');
  });

  it('has the window and the heads of MistralConfig where config.json leaves them out', () => {
    expect(parse(mistral).slidingWindow).toBe(4096);
    expect(parse({ ...mistral, num_key_value_heads: null }).numKvHeads).toBe(4);
    const { num_key_value_heads: _, ...without } = { ...least, ...mistral, num_attention_heads: 16, hidden_size: 128 };
    expect(parseModelConfig(without).numKvHeads).toBe(8);
  });

  it.each<[Record<string, unknown>, string]>([
    [{ sliding_window: 40, layer_types: ['full_attention', 'sliding_attention'] }, 'Supported: sliding_attention.'],
    [{ sliding_window: null, layer_types: ['sliding_attention'] }, 'Supported: full_attention.'],
    [{ sliding_window: 40, use_sliding_window: false }, '"use_sliding_window": false of config.json is not supported. Supported: true, or'],
    [{ attention_bias: true }, '"attention_bias": true of config.json is not supported. Supported: false.'],
    [{ mlp_bias: true }, '"mlp_bias": true'],
    [{ hidden_act: 'gelu' }, '"hidden_act": "gelu"'],
  ])('refuses %j', (changes, message) => {
    expect(() => parse({ ...mistral, ...changes })).toThrow(UnsupportedModelError);
    expect(() => parse({ ...mistral, ...changes })).toThrow(message);
  });

  it.each([0, 1.5, '40'])('refuses a window of %j', (window) => {
    expect(() => parse({ ...mistral, sliding_window: window })).toThrow('"sliding_window" is');
    expect(() => parse({ ...mistral, sliding_window: window })).toThrow(ModelFileError);
  });
});

describe('the two ways to write rotary parameters', () => {
  const llama3 = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 64 };

  it('are read alike', () => {
    const old = parse({ rope_theta: 500000, rope_scaling: { rope_type: 'llama3', ...llama3 } });
    const older = parse({ rope_theta: 500000, rope_scaling: { type: 'llama3', ...llama3 } });
    const current = parse({ rope_parameters: { rope_type: 'llama3', rope_theta: 500000, ...llama3 } });
    expect(old.rope).toEqual(current.rope);
    expect(older.rope).toEqual(current.rope);
    expect(current.rope).toEqual({
      type: 'llama3',
      theta: 500000,
      factor: 8,
      lowFrequencyFactor: 1,
      highFrequencyFactor: 4,
      originalContextLength: 64,
    });
  });

  it('take theta from the inner object first, and the old scaling before the new', () => {
    expect(parse({ rope_theta: 5, rope_parameters: { rope_type: 'default', rope_theta: 7 } }).rope.theta).toBe(7);
    expect(parse({ rope_theta: 5, rope_parameters: { rope_type: 'default' } }).rope.theta).toBe(5);
    expect(parse({ rope_scaling: { type: 'linear', factor: 2 }, rope_parameters: { rope_type: 'default' } }).rope.type).toBe('linear');
    expect(parse({ rope_scaling: {}, rope_parameters: { rope_type: 'linear', factor: 3 } }).rope).toMatchObject({ factor: 3 });
  });

  it('derive what YaRN leaves out', () => {
    expect(
      parse({ rope_parameters: { rope_type: 'yarn', factor: null, original_max_position_embeddings: 128, beta_fast: 0 } }).rope,
    ).toEqual({
      type: 'yarn',
      theta: 10000,
      factor: 4,
      originalContextLength: 128,
      betaFast: 32,
      betaSlow: 1,
      truncate: true,
      attentionFactor: undefined,
      mscale: undefined,
      mscaleAllDim: undefined,
    });
    const outside = parse({
      original_max_position_embeddings: 256,
      rope_scaling: { type: 'yarn', factor: 2, original_max_position_embeddings: 128 },
    });
    expect(outside.rope).toMatchObject({ originalContextLength: 256 });
    expect(parse({ rope_scaling: { type: 'yarn', factor: 2 } }).rope).toMatchObject({ originalContextLength: 512 });
  });
});

describe('parseGenerationConfig', () => {
  it('falls back to temperature 0.7, top-k 40, top-p 1', () => {
    const fallback = { temperature: 0.7, topK: 40, topP: 1, eosTokenIds: undefined };
    expect(parseGenerationConfig(undefined)).toEqual(fallback);
    expect(parseGenerationConfig({ top_k: null, use_cache: true })).toEqual(fallback);
  });

  it('reads what is there', () => {
    expect(parseGenerationConfig(readJson('demo/model/generation_config.json'))).toEqual({
      temperature: 0.7,
      topK: 40,
      topP: 1,
      eosTokenIds: [0],
    });
    const all = { do_sample: true, temperature: 1.2, top_k: 0, top_p: 0.9, eos_token_id: [1, 2] };
    expect(parseGenerationConfig(all)).toEqual({ temperature: 1.2, topK: 0, topP: 0.9, eosTokenIds: [1, 2] });
    expect(parseGenerationConfig({ ...all, do_sample: false }).temperature).toBe(0);
  });

  it.each<[unknown, string]>([
    [{ temperature: -1 }, '"temperature" is -1, but must be a number of at least 0.'],
    [{ temperature: 'hot' }, '"temperature" is "hot"'],
    [{ top_k: 1.5 }, '"top_k" is 1.5'],
    [{ top_p: 0 }, '"top_p" is 0, but must be a number above 0 and at most 1.'],
    [{ top_p: 1.1 }, '"top_p" is 1.1'],
    [{ do_sample: 1 }, '"do_sample" is 1'],
    [{ eos_token_id: -1 }, '"eos_token_id" is -1'],
    [null, 'its content is not a JSON object'],
  ])('refuses %j', (json, message) => {
    expect(() => parseGenerationConfig(json)).toThrow(ModelFileError);
    expect(() => parseGenerationConfig(json)).toThrow(message);
  });
});
