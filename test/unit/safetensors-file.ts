/** Writes safetensors files for tests: good ones, and bad ones by way of `header` and `tail`. */

export interface TestTensor {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/** The tensors one after the other, each described as it is. `padding` spaces follow the header. */
export function safetensorsFile(tensors: Record<string, TestTensor>, padding = 0): Uint8Array<ArrayBuffer> {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } };
  const parts: Uint8Array[] = [];
  let position = 0;
  for (const [name, { dtype, shape, bytes }] of Object.entries(tensors)) {
    header[name] = { dtype, shape, data_offsets: [position, position + bytes.length] };
    position += bytes.length;
    parts.push(bytes);
  }
  return rawFile(JSON.stringify(header) + ' '.repeat(padding), concatenate(parts));
}

/** Any text as the header, any bytes behind it; `headerLength` may lie. */
export function rawFile(header: string, data: Uint8Array, headerLength?: number | bigint): Uint8Array<ArrayBuffer> {
  const text = new TextEncoder().encode(header);
  const length = new Uint8Array(8);
  new DataView(length.buffer).setBigUint64(0, BigInt(headerLength ?? text.length), true);
  return concatenate([length, text, data]);
}

function concatenate(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let position = 0;
  for (const part of parts) {
    whole.set(part, position);
    position += part.length;
  }
  return whole;
}
