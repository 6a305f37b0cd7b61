/**
 * The forward pass of Llama and Mistral in plain float64 loops: slow, obvious, and shares nothing with the kernels but the files' readers and the
 * rotary table. It ties config, weights and rotary embedding to what transformers computed.
 */
import type { ModelConfig } from '../../src/engine/config.ts';
import { rotaryTable } from '../../src/engine/rotary.ts';
import { expectShape, type TensorIndex, type WeightTensor } from '../../src/engine/safetensors.ts';

/** Logits at every position: [ids.length][vocabSize]. */
export async function referenceLogits(config: ModelConfig, tensors: TensorIndex, ids: readonly number[]): Promise<Float64Array[]> {
  const { hiddenSize, headDim, numHeads, numKvHeads, intermediateSize, vocabSize, rmsNormEps } = config;
  const rotary = rotaryTable(config.rope, headDim, ids.length);
  const load = async (name: string, shape: readonly number[]): Promise<Float64Array> => {
    const tensor = tensors.tensor(name);
    expectShape(tensor, shape);
    return widen(tensor);
  };
  const linear = async (name: string, outputs: number, inputs: number, bias: boolean) => {
    const weight = await load(`${name}.weight`, [outputs, inputs]);
    const offset = bias ? await load(`${name}.bias`, [outputs]) : new Float64Array(outputs);
    return (row: Float64Array): Float64Array => multiply(weight, row, offset);
  };

  const embedding = await load('model.embed_tokens.weight', [vocabSize, hiddenSize]);
  let hidden: Float64Array[] = ids.map((id) => embedding.slice(id * hiddenSize, (id + 1) * hiddenSize));
  for (let layer = 0; layer < config.numLayers; layer++) {
    const at = `model.layers.${layer}`;
    const attentionNorm = await load(`${at}.input_layernorm.weight`, [hiddenSize]);
    const q = await linear(`${at}.self_attn.q_proj`, numHeads * headDim, hiddenSize, config.attentionBias);
    const k = await linear(`${at}.self_attn.k_proj`, numKvHeads * headDim, hiddenSize, config.attentionBias);
    const v = await linear(`${at}.self_attn.v_proj`, numKvHeads * headDim, hiddenSize, config.attentionBias);
    const o = await linear(`${at}.self_attn.o_proj`, hiddenSize, numHeads * headDim, config.attentionBias);
    const normed = hidden.map((row) => rmsNorm(row, attentionNorm, rmsNormEps));
    const queries = normed.map((row, position) => rotate(q(row), headDim, rotary, position));
    const keys = normed.map((row, position) => rotate(k(row), headDim, rotary, position));
    const values = normed.map(v);
    hidden = hidden.map((row, position) => {
      const first = Math.max(0, position + 1 - (config.slidingWindow ?? ids.length)); // a key is seen if query - key < window
      return add(row, o(attend(queries[position]!, keys.slice(first, position + 1), values.slice(first), config)));
    });

    const mlpNorm = await load(`${at}.post_attention_layernorm.weight`, [hiddenSize]);
    const gate = await linear(`${at}.mlp.gate_proj`, intermediateSize, hiddenSize, config.mlpBias);
    const up = await linear(`${at}.mlp.up_proj`, intermediateSize, hiddenSize, config.mlpBias);
    const down = await linear(`${at}.mlp.down_proj`, hiddenSize, intermediateSize, config.mlpBias);
    hidden = hidden.map((row) => {
      const input = rmsNorm(row, mlpNorm, rmsNormEps);
      const upper = up(input);
      return add(row, down(gate(input).map((value, i) => (value / (1 + Math.exp(-value))) * upper[i]!)));
    });
  }
  const finalNorm = await load('model.norm.weight', [hiddenSize]);
  const head = config.tieWordEmbeddings ? embedding : await load('lm_head.weight', [vocabSize, hiddenSize]);
  return hidden.map((row) => multiply(head, rmsNorm(row, finalNorm, rmsNormEps), new Float64Array(vocabSize)));
}

function attend(query: Float64Array, keys: readonly Float64Array[], values: readonly Float64Array[], config: ModelConfig): Float64Array {
  const { headDim, numHeads, numKvHeads } = config;
  const result = new Float64Array(numHeads * headDim);
  for (let head = 0; head < numHeads; head++) {
    const kvStart = Math.floor(head / (numHeads / numKvHeads)) * headDim;
    const part = query.subarray(head * headDim, (head + 1) * headDim);
    const scores = keys.map((key) => dot(part, key.subarray(kvStart, kvStart + headDim)) / Math.sqrt(headDim));
    const largest = Math.max(...scores);
    const weights = scores.map((score) => Math.exp(score - largest));
    const sum = weights.reduce((a, b) => a + b);
    for (let i = 0; i < headDim; i++) {
      result[head * headDim + i] = weights.reduce((total, weight, position) => total + (weight / sum) * values[position]![kvStart + i]!, 0);
    }
  }
  return result;
}

/** Turns elements i and i + headDim / 2 of every head, as Llama's `rotate_half` does. */
function rotate(row: Float64Array, headDim: number, rotary: Float32Array, position: number): Float64Array {
  const half = headDim / 2;
  return row.map((value, index) => {
    const i = index % headDim;
    const [cos, sin] = rotary.subarray(position * headDim + (i % half) * 2) as unknown as [number, number];
    return i < half ? value * cos - row[index + half]! * sin : value * cos + row[index - half]! * sin;
  });
}

function rmsNorm(row: Float64Array, weight: Float64Array, epsilon: number): Float64Array {
  const scale = 1 / Math.sqrt(dot(row, row) / row.length + epsilon);
  return row.map((value, i) => value * scale * weight[i]!);
}

function multiply(weight: Float64Array, row: Float64Array, offset: Float64Array): Float64Array {
  return offset.map((value, output) => value + dot(weight.subarray(output * row.length, (output + 1) * row.length), row));
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

function add(a: Float64Array, b: Float64Array): Float64Array {
  return a.map((value, i) => value + b[i]!);
}

async function widen(tensor: WeightTensor): Promise<Float64Array> {
  const { buffer } = await tensor.read();
  if (tensor.dtype === 'f32') return Float64Array.from(new Float32Array(buffer));
  const halves = new Uint16Array(buffer);
  if (tensor.dtype === 'bf16') return Float64Array.from(new Float32Array(Uint32Array.from(halves, (bits) => bits << 16).buffer));
  return Float64Array.from(halves, halfToNumber);
}

function halfToNumber(bits: number): number {
  const sign = bits >> 15 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25));
}
