/** The ONNX model of a step: as many GroupQueryAttention nodes as there are layers, and nothing else. Field numbers are those of onnx.proto. */
import { Writer } from 'protobufjs/minimal.js';
import type { CompareCase } from './subject.ts';

type Fields = (writer: Writer) => void;

/** onnx.TensorProto.DataType */
const dataTypes = { f32: 1, f16: 10, i32: 6 } as const;

const bytes = 2;
const message = (field: number, fields: Fields) => (writer: Writer) => {
  writer.uint32((field << 3) | bytes).fork();
  fields(writer);
  writer.ldelim();
};
const text = (field: number, value: string) => (writer: Writer) => void writer.uint32((field << 3) | bytes).string(value);
const integer = (field: number, value: number) => (writer: Writer) => void writer.uint32(field << 3).int64(value);
const all =
  (...fields: readonly Fields[]): Fields =>
  (writer) => {
    for (const field of fields) field(writer);
  };

/** An AttributeProto of type INT. */
const attribute = (name: string, value: number) => message(5, all(text(1, name), integer(3, value), integer(20, 2)));

/** A ValueInfoProto: field 11 of a graph is an input, 12 an output. */
const valueInfo = (field: 11 | 12, name: string, type: keyof typeof dataTypes, dims: readonly number[]) => {
  const shape = all(...dims.map((dim) => message(1, integer(1, dim))));
  return message(field, all(text(1, name), message(2, message(1, all(integer(1, dataTypes[type]), message(2, shape))))));
};

/** A constant of i32. */
const constant = (name: string, dims: readonly number[], values: readonly number[]) =>
  message(
    5,
    all(...dims.map((dim) => integer(1, dim)), integer(2, dataTypes.i32), ...values.map((value) => integer(5, value)), text(8, name)),
  );

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
  const { batch, seqLen, numHeads, numKvHeads, layers, kv } = one;
  const shapes = shapesOf(one);
  const all_ = Array.from({ length: layers }, (_, layer) => layerNames(layer));
  const nodes = all_.map(({ pastKey, pastValue, output, presentKey, presentValue }) => {
    const inputs = ['query', 'key', 'value', pastKey, pastValue, 'last', 'total'].map((name) => text(1, name));
    const outputs = [output, presentKey, presentValue].map((name) => text(2, name));
    const attributes = [attribute('num_heads', numHeads), attribute('kv_num_heads', numKvHeads)];
    return message(1, all(...inputs, ...outputs, text(3, output), text(4, 'GroupQueryAttention'), ...attributes, text(7, 'com.microsoft')));
  });
  const graph = all(
    ...nodes,
    text(2, 'attention'),
    constant('last', [batch], Array(batch).fill(seqLen - 1)),
    constant('total', [1], [seqLen]),
    valueInfo(11, 'query', kv, shapes.query),
    valueInfo(11, 'key', kv, shapes.newKeyValue),
    valueInfo(11, 'value', kv, shapes.newKeyValue),
    ...all_.flatMap(({ pastKey, pastValue }) => [pastKey, pastValue].map((name) => valueInfo(11, name, kv, shapes.cache))),
    ...all_.map(({ output }) => valueInfo(12, output, kv, shapes.query)),
    ...all_.flatMap(({ presentKey, presentValue }) => [presentKey, presentValue].map((name) => valueInfo(12, name, kv, shapes.cache))),
  );
  const opset = (domain: string, version: number) => message(8, all(text(1, domain), integer(2, version)));
  const writer = Writer.create();
  all(integer(1, 8), text(2, 'pagewise'), message(7, graph), opset('', 17), opset('com.microsoft', 1))(writer);
  return writer.finish();
}
