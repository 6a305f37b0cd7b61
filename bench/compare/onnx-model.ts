/** The ONNX model of a step: as many GroupQueryAttention nodes as there are layers, and nothing else. */
import { type OnnxNode, type OnnxValue, onnxFile } from './onnx-file.ts';
import type { CompareCase } from './subject.ts';

/** Names of a layer's tensors in the model. */
export const layerNames = (layer: number) => ({
  ...{ pastKey: `past_key_${layer}`, pastValue: `past_value_${layer}` },
  ...{ output: `output_${layer}`, presentKey: `present_key_${layer}`, presentValue: `present_value_${layer}` },
});

/** Shapes of the model's tensors. */
export function shapesOf({ batch, queryLen, seqLen, numHeads, numKvHeads, headDim }: CompareCase) {
  return {
    query: [batch, queryLen, numHeads * headDim],
    newKeyValue: [batch, queryLen, numKvHeads * headDim],
    cache: [batch, numKvHeads, seqLen, headDim],
  } as const;
}

/** The model's file: past and present are the same caches of `seqLen` tokens, of which the last `queryLen` are the new ones. */
export function onnxModel(one: CompareCase): Uint8Array {
  const { batch, seqLen, numHeads, numKvHeads, layers, kv: type } = one;
  const shapes = shapesOf(one);
  const names = Array.from({ length: layers }, (_, layer) => layerNames(layer));
  const caches = (of: readonly string[]) => of.map((name): OnnxValue => ({ name, type, dims: shapes.cache }));
  return onnxFile({
    name: 'attention',
    nodes: names.map(
      ({ pastKey, pastValue, output, presentKey, presentValue }): OnnxNode => ({
        ...{ op: 'GroupQueryAttention', domain: 'com.microsoft' },
        inputs: ['query', 'key', 'value', pastKey, pastValue, 'last', 'total'],
        outputs: [output, presentKey, presentValue],
        integers: { num_heads: numHeads, kv_num_heads: numKvHeads },
      }),
    ),
    constants: [
      { name: 'last', type: 'i32', dims: [batch], data: new Int32Array(batch).fill(seqLen - 1) },
      { name: 'total', type: 'i32', dims: [1], data: Int32Array.of(seqLen) },
    ],
    inputs: [
      { name: 'query', type, dims: shapes.query },
      { name: 'key', type, dims: shapes.newKeyValue },
      { name: 'value', type, dims: shapes.newKeyValue },
      ...caches(names.flatMap(({ pastKey, pastValue }) => [pastKey, pastValue])),
    ],
    outputs: [
      ...names.map(({ output: name }): OnnxValue => ({ name, type, dims: shapes.query })),
      ...caches(names.flatMap(({ presentKey, presentValue }) => [presentKey, presentValue])),
    ],
  });
}
