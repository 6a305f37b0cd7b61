/** Writes ONNX files: those messages of onnx.proto that the benches need, with its field numbers. */
import { Writer } from 'protobufjs/minimal.js';

type Fields = (writer: Writer) => void;

/** onnx.TensorProto.DataType */
const dataTypes = { f32: 1, i32: 6, i64: 7, f16: 10 } as const;

export type OnnxType = keyof typeof dataTypes;

/** What a Cast's attribute `to` is. */
export const dataTypeOf = (type: OnnxType): number => dataTypes[type];

export interface OnnxNode {
  readonly op: string;
  /** Default: onnx itself. */
  readonly domain?: 'com.microsoft';
  /** Names of values; '' leaves an optional one out. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** Attributes that are integers. */
  readonly integers?: Readonly<Record<string, number>>;
  /** Attributes that are f32. */
  readonly floats?: Readonly<Record<string, number>>;
}

export interface OnnxValue {
  readonly name: string;
  readonly type: OnnxType;
  /** A name stands for any size. */
  readonly dims: readonly (number | string)[];
}

export interface OnnxConstant {
  readonly name: string;
  readonly type: OnnxType;
  readonly dims: readonly number[];
  /** Row-major, little endian. */
  readonly data: ArrayBufferView;
}

export interface OnnxGraph {
  readonly name: string;
  /** In an order in which they can run. */
  readonly nodes: readonly OnnxNode[];
  readonly constants: readonly OnnxConstant[];
  readonly inputs: readonly OnnxValue[];
  readonly outputs: readonly OnnxValue[];
}

/** The file of a model that is this graph. */
export function onnxFile({ name, nodes, constants, inputs, outputs }: OnnxGraph): Uint8Array {
  const graph = all(
    ...nodes.map(nodeFields),
    text(2, name),
    ...constants.map(constantFields),
    ...inputs.map((input) => valueFields(11, input)),
    ...outputs.map((output) => valueFields(12, output)),
  );
  const opset = (domain: string, version: number) => message(8, all(text(1, domain), integer(2, version)));
  const writer = Writer.create();
  all(integer(1, 8), text(2, 'pagewise'), message(7, graph), opset('', 17), opset('com.microsoft', 1))(writer);
  return writer.finish();
}

const lengthDelimited = 2;
const fixed32 = 5;

function all(...fields: readonly Fields[]): Fields {
  return (writer) => {
    for (const field of fields) field(writer);
  };
}

function message(field: number, fields: Fields): Fields {
  return (writer) => {
    writer.uint32((field << 3) | lengthDelimited).fork();
    fields(writer);
    writer.ldelim();
  };
}

function text(field: number, value: string): Fields {
  return (writer) => void writer.uint32((field << 3) | lengthDelimited).string(value);
}

function integer(field: number, value: number): Fields {
  return (writer) => void writer.uint32(field << 3).int64(value);
}

function float(field: number, value: number): Fields {
  return (writer) => void writer.uint32((field << 3) | fixed32).float(value);
}

function raw(field: number, { buffer, byteOffset, byteLength }: ArrayBufferView): Fields {
  return (writer) => void writer.uint32((field << 3) | lengthDelimited).bytes(new Uint8Array(buffer, byteOffset, byteLength));
}

/** A NodeProto; an AttributeProto of type FLOAT (1) has its value in field 2, one of type INT (2) in field 3. */
function nodeFields({ op, domain, inputs, outputs, integers = {}, floats = {} }: OnnxNode): Fields {
  return message(
    1,
    all(
      ...inputs.map((name) => text(1, name)),
      ...outputs.map((name) => text(2, name)),
      text(3, outputs[0]),
      text(4, op),
      ...Object.entries(integers).map(([name, value]) => message(5, all(text(1, name), integer(3, value), integer(20, 2)))),
      ...Object.entries(floats).map(([name, value]) => message(5, all(text(1, name), float(2, value), integer(20, 1)))),
      ...(domain ? [text(7, domain)] : []),
    ),
  );
}

/** A TensorProto with raw data. */
function constantFields({ name, type, dims, data }: OnnxConstant): Fields {
  return message(5, all(...dims.map((dim) => integer(1, dim)), integer(2, dataTypes[type]), text(8, name), raw(9, data)));
}

/** A ValueInfoProto: field 11 of a graph is an input, 12 an output. */
function valueFields(field: 11 | 12, { name, type, dims }: OnnxValue): Fields {
  const shape = all(...dims.map((dim) => message(1, typeof dim === 'number' ? integer(1, dim) : text(2, dim))));
  return message(field, all(text(1, name), message(2, message(1, all(integer(1, dataTypes[type]), message(2, shape))))));
}
