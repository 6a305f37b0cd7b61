/** How many bytes of workgroup memory a WGSL text declares, worked out from the text alone. */
import { constantsOf, evaluate } from '../../src/launch/unroll.ts';

/** Bytes of the types that our kernels keep in workgroup memory. */
const typeBytes: Readonly<Record<string, number>> = {
  f32: 4,
  u32: 4,
  'atomic<u32>': 4,
  vec2f: 8,
  vec4f: 16,
  'vec2<u32>': 8,
  'vec4<u32>': 16,
  'vec4<f16>': 8,
  Span: 24,
};

/** Of a type or an alias of the text. */
function bytesOf(type: string, wgsl: string): number | undefined {
  return typeBytes[new RegExp(`^alias ${type} = ([^;]+);`, 'm').exec(wgsl)?.[1] ?? type];
}

/** Sum over all `var<workgroup>`, each rounded up to 16 bytes as WebGPU's limit counts them. Constants may refer to each other. */
export function workgroupMemory(wgsl: string): number {
  const constants = constantsOf(wgsl);
  let bytes = 0;
  for (const [, type] of wgsl.matchAll(/^var<workgroup> \w+: ([^;]+);/gm)) {
    const array = /^array<([^,]+), (.+)>$/.exec(type!);
    const size = bytesOf(array ? array[1]! : type!, wgsl);
    if (size === undefined) throw new Error(`Unknown type ${type} in workgroup memory.`);
    bytes += Math.ceil((size * (array ? evaluate(array[2]!, constants) : 1)) / 16) * 16;
  }
  return bytes;
}
