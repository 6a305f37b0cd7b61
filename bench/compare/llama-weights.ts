/** The weights of a safetensors file as the constants of an ONNX graph. */
import type { ModelConfig } from 'pagewise/engine';
import { expectShape, type TensorIndex } from '../../src/engine/safetensors.ts';
import { toFloats } from '../../src/engine/weights.ts';
import type { OnnxConstant } from './onnx-file.ts';

/** Matrices are [inputs, outputs], as MatMul wants them; `embedding` is [vocabulary, hidden size]. */
export type LlamaWeights = readonly OnnxConstant[];

type Values = Float32Array | Uint16Array;

/**
 * Values go over bit by bit, or widened to f32.
 *
 * @throws {Error} for what the shipped model has not: biases, and f16 where the file has another type.
 */
export async function readLlamaWeights(tensors: TensorIndex, config: ModelConfig, type: 'f32' | 'f16'): Promise<LlamaWeights> {
  const { hiddenSize, intermediateSize, numHeads, numKvHeads, headDim, numLayers, vocabSize, attentionBias, mlpBias } = config;
  if (attentionBias || mlpBias) throw new Error('the ONNX graph has no biases.');
  const read = async (name: string, shape: readonly number[]): Promise<Values> => {
    const tensor = tensors.tensor(name);
    expectShape(tensor, shape);
    const bytes = await tensor.read();
    if (type === 'f32') return toFloats(bytes, tensor.dtype);
    if (tensor.dtype !== 'f16') throw new Error(`${name} is ${tensor.dtype}: an f16 graph is made of f16 weights only.`);
    return new Uint16Array(bytes.slice().buffer);
  };
  const constant = (name: string, dims: readonly number[], data: Values): OnnxConstant => ({ name, type, dims, data });
  const matrix = async (name: string, inputs: number, parts: readonly (readonly [tensor: string, outputs: number])[]) => {
    const rows = await Promise.all(parts.map(([tensor, outputs]) => read(tensor, [outputs, inputs])));
    return constant(name, [inputs, parts.reduce((sum, [, outputs]) => sum + outputs, 0)], transposed(rows, inputs));
  };
  const gain = async (name: string, tensor: string) => constant(name, [hiddenSize], await read(tensor, [hiddenSize]));

  const embedding = await read('model.embed_tokens.weight', [vocabSize, hiddenSize]);
  const headTensor = config.tieWordEmbeddings ? 'model.embed_tokens.weight' : 'lm_head.weight';
  const constants = [
    constant('embedding', [vocabSize, hiddenSize], embedding),
    await matrix('head', hiddenSize, [[headTensor, vocabSize]]),
    await gain('last_gain', 'model.norm.weight'),
  ];
  for (let layer = 0; layer < numLayers; layer++) {
    const prefix = `model.layers.${layer}`;
    const attention = (name: string) => `${prefix}.self_attn.${name}_proj.weight`;
    const feedForward = (name: string) => `${prefix}.mlp.${name}_proj.weight`;
    const [querySize, keySize] = [numHeads * headDim, numKvHeads * headDim];
    constants.push(
      await matrix(`qkv_${layer}`, hiddenSize, [
        [attention('q'), querySize],
        [attention('k'), keySize],
        [attention('v'), keySize],
      ]),
      await matrix(`output_${layer}`, querySize, [[attention('o'), hiddenSize]]),
      await matrix(`gate_${layer}`, hiddenSize, [[feedForward('gate'), intermediateSize]]),
      await matrix(`up_${layer}`, hiddenSize, [[feedForward('up'), intermediateSize]]),
      await matrix(`down_${layer}`, intermediateSize, [[feedForward('down'), hiddenSize]]),
      await gain(`attention_gain_${layer}`, `${prefix}.input_layernorm.weight`),
      await gain(`feed_forward_gain_${layer}`, `${prefix}.post_attention_layernorm.weight`),
    );
  }
  return constants;
}

/** Matrices of so many columns, one below the other, as [columns, all rows]. */
export function transposed<T extends Values>(parts: readonly T[], columns: number): T {
  const rows = parts.reduce((sum, part) => sum + part.length / columns, 0);
  const result = new (parts[0].constructor as new (length: number) => T)(rows * columns);
  let row = 0;
  for (const part of parts) {
    for (let at = 0; at < part.length; at += columns, row++)
      for (let column = 0; column < columns; column++) result[column * rows + row] = part[at + column];
  }
  return result;
}
