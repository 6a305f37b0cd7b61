/** Files of a model that nobody trained: sizes as asked, weights made up as they are read. Its text is nonsense and its work is not. */
import { type ByteSource, filesFrom, type ModelFiles } from 'pagewise/engine';
import { halfNoise } from '../generate/models.ts';

/** As config.json has them. */
export interface SyntheticConfig {
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly num_hidden_layers: number;
  readonly num_attention_heads: number;
  readonly num_key_value_heads: number;
  readonly head_dim: number;
  readonly vocab_size: number;
  readonly max_position_embeddings: number;
  readonly [name: string]: unknown;
}

/** Shapes by name. */
export const syntheticConfigs: Readonly<Record<string, SyntheticConfig>> = {
  /** Llama-3.2-1B's: 1.24 billion weights. */
  'llama-3.2-1b': {
    ...{ hidden_size: 2048, intermediate_size: 8192, num_hidden_layers: 16, vocab_size: 128_256, max_position_embeddings: 131_072 },
    ...{ num_attention_heads: 32, num_key_value_heads: 8, head_dim: 64, rms_norm_eps: 1e-5, tie_word_embeddings: true },
    rope_theta: 500_000,
    rope_scaling: {
      ...{ rope_type: 'llama3', factor: 32, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 },
    },
  },
  /** Small enough for a processor to play the GPU. */
  tiny: {
    ...{ hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, vocab_size: 4096, max_position_embeddings: 4096 },
    ...{ num_attention_heads: 4, num_key_value_heads: 2, head_dim: 16, rms_norm_eps: 1e-5, tie_word_embeddings: true },
  },
};

/** @param tokenizer where tokenizer.json comes from: of the ids of this model, those that it lacks give no text. */
export function syntheticFiles(name: string, config: SyntheticConfig, tokenizer: ModelFiles): ModelFiles {
  const json = { architectures: ['LlamaForCausalLM'], model_type: 'llama', bos_token_id: 0, eos_token_id: 0, ...config };
  return filesFrom(`the synthetic model ${name}`, async (file) => {
    if (file === 'config.json') return new TextEncoder().encode(JSON.stringify(json));
    if (file === 'model.safetensors') return weights(config);
    if (file.startsWith('tokenizer')) return tokenizer.open(file);
    return undefined;
  });
}

function shapesOf(config: SyntheticConfig): readonly (readonly [name: string, shape: readonly number[]])[] {
  const { hidden_size: hidden, intermediate_size: inner, head_dim: headDim, num_attention_heads: heads, vocab_size: vocab } = config;
  const keys = config.num_key_value_heads * headDim;
  const layers = Array.from({ length: config.num_hidden_layers }, (_, layer) =>
    Object.entries({
      'self_attn.q_proj': [heads * headDim, hidden],
      'self_attn.k_proj': [keys, hidden],
      'self_attn.v_proj': [keys, hidden],
      'self_attn.o_proj': [hidden, heads * headDim],
      'mlp.gate_proj': [inner, hidden],
      'mlp.up_proj': [inner, hidden],
      'mlp.down_proj': [hidden, inner],
      input_layernorm: [hidden],
      post_attention_layernorm: [hidden],
    }).map(([name, shape]) => [`model.layers.${layer}.${name}.weight`, shape] as const),
  );
  return [['model.embed_tokens.weight', [vocab, hidden]], ...layers.flat(), ['model.norm.weight', [hidden]]];
}

/** A safetensors file in f16 of which only the header is ever in memory. */
function weights(config: SyntheticConfig): ByteSource {
  let at = 0;
  const entries = shapesOf(config).map(([name, shape]) => {
    const bytes = 2 * shape.reduce((product, size) => product * size, 1);
    const entry = { dtype: 'F16', shape, data_offsets: [at, at + bytes] };
    at += bytes;
    return [name, entry] as const;
  });
  const json = JSON.stringify(Object.fromEntries(entries));
  const header = new TextEncoder().encode(json.padEnd(Math.ceil(json.length / 8) * 8));
  const head = new Uint8Array(8 + header.length);
  new DataView(head.buffer).setBigUint64(0, BigInt(header.length), true);
  head.set(header, 8);
  const gains = entries.filter(([, { shape }]) => shape.length === 1).map(([, { data_offsets: range }]) => range);
  const noise = new Uint8Array(halfNoise(1 << 20).buffer);
  return {
    name: 'model.safetensors',
    size: head.length + at,
    async read(start, end) {
      const bytes = new Uint8Array(end - start);
      if (start < head.length) bytes.set(head.subarray(start, Math.min(end, head.length)));
      for (let from = Math.max(start, head.length); from < end; ) {
        const within = (from - head.length) % noise.length;
        const piece = noise.subarray(within, Math.min(noise.length, within + end - from));
        bytes.set(piece, from - start);
        from += piece.length;
      }
      for (const [first, last] of gains) fillOnes(bytes, head.length + first - start, head.length + last - start);
      return bytes;
    },
  };
}

/** Writes f16 ones into a range that may lie anywhere about the array. */
function fillOnes(bytes: Uint8Array, first: number, last: number): void {
  for (let at = Math.max(0, first); at < Math.min(bytes.length, last); at++) bytes[at] = (at - first) % 2 === 0 ? 0x00 : 0x3c;
}
