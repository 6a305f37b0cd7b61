/**
 * A Llama model as an ONNX graph, as the models that transformers.js loads are exported by the model builder of onnxruntime-genai: onnxruntime's
 * fused operators, one matrix product for query, key and value, rotary embedding inside GroupQueryAttention, logits of the last token alone.
 */
import type { ModelConfig } from 'pagewise/engine';
import { rotaryTable } from '../../src/engine/rotary.ts';
import type { LlamaWeights } from './llama-weights.ts';
import { dataTypeOf, type OnnxConstant, type OnnxNode, type OnnxValue, onnxFile } from './onnx-file.ts';

/** What weights, activations and the KV cache are in. */
export type LlamaType = 'f32' | 'f16';

/** Names of a layer's cache: what a step takes, and what it gives for the next. */
export const cacheNames = (layer: number) => [
  [`past_key_values.${layer}.key`, `present.${layer}.key`],
  [`past_key_values.${layer}.value`, `present.${layer}.value`],
];

/**
 * The model's file. Inputs: `input_ids` i64 [1, new tokens], `attention_mask` i64 [1, all tokens], the caches [1, KV heads, past tokens, head dim].
 * Outputs: `logits` f32 [1, 1, vocabulary], the caches with the new tokens.
 */
export function llamaModel(config: ModelConfig, type: LlamaType, weights: LlamaWeights): Uint8Array {
  const { numLayers, numHeads, numKvHeads, headDim, vocabSize, contextLength } = config;
  const layers = Array.from({ length: numLayers }, (_, layer) => layer);
  const caches = (side: 0 | 1, length: string) =>
    layers.flatMap((layer) =>
      cacheNames(layer).map((names): OnnxValue => ({ name: names[side], type, dims: [1, numKvHeads, length, headDim] })),
    );
  const table = rotaryTable(config.rope, headDim, contextLength);
  const rotary = (name: string, part: 0 | 1): OnnxConstant => ({
    ...{ name, type: 'f32', dims: [contextLength, headDim / 2] },
    data: table.filter((_, i) => i % 2 === part),
  });
  const scalar = (name: string, value: bigint): OnnxConstant => ({ name, type: 'i64', dims: [1], data: BigInt64Array.of(value) });
  // Of constants alone: done once, when a session is made.
  const cast = (input: string, to: LlamaType): OnnxNode => ({
    ...node('Cast', [input], [`${input}_${to}`]),
    integers: { to: dataTypeOf(to) },
  });
  const [cos, sin] = type === 'f32' ? ['cos', 'sin'] : ['cos_f16', 'sin_f16'];

  const nodes: OnnxNode[] = [
    ...(type === 'f32' ? [] : [cast('cos', type), cast('sin', type)]),
    // How many tokens there are, from the mask.
    node('ReduceSum', ['attention_mask', 'one'], ['mask_sum']),
    node('Sub', ['mask_sum', 'one'], ['last_i64']),
    { ...node('Cast', ['last_i64'], ['last_2d']), integers: { to: dataTypeOf('i32') } },
    node('Reshape', ['last_2d', 'one'], ['last']),
    node('Shape', ['attention_mask'], ['mask_shape']),
    node('Gather', ['mask_shape', 'one'], ['total_i64']),
    { ...node('Cast', ['total_i64'], ['total']), integers: { to: dataTypeOf('i32') } },
    node('Gather', ['embedding', 'input_ids'], ['residual']),
    normalized(config, 'residual', 'attention_gain_0', 'normed_0'),
  ];
  for (const layer of layers) {
    const name = (part: string) => `${part}_${layer}`;
    const [[pastKey, presentKey], [pastValue, presentValue]] = cacheNames(layer);
    const before = layer === 0 ? 'residual' : `residual_${layer - 1}`;
    nodes.push(
      node('MatMul', [name('normed'), name('qkv')], [name('projected')]),
      {
        ...{ op: 'GroupQueryAttention', domain: 'com.microsoft' },
        inputs: [name('projected'), '', '', pastKey, pastValue, 'last', 'total', cos, sin],
        outputs: [name('attended'), presentKey, presentValue],
        integers: { num_heads: numHeads, kv_num_heads: numKvHeads, do_rotary: 1 },
      },
      node('MatMul', [name('attended'), name('output')], [name('attention')]),
      added(config, before, name('attention'), name('feed_forward_gain'), name('feed_forward_normed'), name('middle')),
      node('MatMul', [name('feed_forward_normed'), name('gate')], [name('gated')]),
      node('MatMul', [name('feed_forward_normed'), name('up')], [name('upped')]),
      node('Sigmoid', [name('gated')], [name('sigmoid')]),
      node('Mul', [name('gated'), name('sigmoid')], [name('activated')]),
      node('Mul', [name('activated'), name('upped')], [name('product')]),
      node('MatMul', [name('product'), name('down')], [name('feed_forward')]),
      layer === numLayers - 1
        ? added(config, name('middle'), name('feed_forward'), 'last_gain', 'normed')
        : added(
            ...([config, name('middle'), name('feed_forward')] as const),
            ...([`attention_gain_${layer + 1}`, `normed_${layer + 1}`, name('residual')] as const),
          ),
    );
  }
  nodes.push(
    { ...node('Gather', ['normed', 'minus_one'], ['normed_last']), integers: { axis: 1 } },
    node('MatMul', ['normed_last', 'head'], [type === 'f32' ? 'logits' : 'logits_half']),
    ...(type === 'f32' ? [] : [{ ...node('Cast', ['logits_half'], ['logits']), integers: { to: dataTypeOf('f32') } }]),
  );
  return onnxFile({
    name: 'llama',
    nodes,
    constants: [...weights, rotary('cos', 0), rotary('sin', 1), scalar('one', 1n), scalar('minus_one', -1n)],
    inputs: [
      { name: 'input_ids', type: 'i64', dims: [1, 'sequence_length'] },
      { name: 'attention_mask', type: 'i64', dims: [1, 'total_sequence_length'] },
      ...caches(0, 'past_sequence_length'),
    ],
    outputs: [{ name: 'logits', type: 'f32', dims: [1, 1, vocabSize] }, ...caches(1, 'total_sequence_length')],
  });
}

function node(op: string, inputs: readonly string[], outputs: readonly string[]): OnnxNode {
  return { op, inputs, outputs };
}

function normalized({ rmsNormEps }: ModelConfig, input: string, gain: string, output: string): OnnxNode {
  const attributes = { integers: { axis: -1, stash_type: 1 }, floats: { epsilon: rmsNormEps } };
  return { ...node('SimplifiedLayerNormalization', [input, gain], [output]), ...attributes };
}

/** The sum of two, normalized; the sum itself, too, where it has a name. */
function added({ rmsNormEps }: ModelConfig, residual: string, input: string, gain: string, output: string, sum?: string): OnnxNode {
  const outputs = sum ? [output, '', '', sum] : [output];
  const domain = 'com.microsoft';
  return { ...node('SkipSimplifiedLayerNormalization', [residual, input, gain], outputs), domain, floats: { epsilon: rmsNormEps } };
}
