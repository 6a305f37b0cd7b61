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
  Bounds: 24,
};

/** Of a type, an alias of the text, or an array of either. */
function bytesOf(type: string, wgsl: string, constants: ReadonlyMap<string, string>): number {
  const array = /^array<((?:array<.+>|[^,]+)), (.+)>$/.exec(type);
  if (array) return bytesOf(array[1]!, wgsl, constants) * evaluate(array[2]!, constants);
  const alias = new RegExp(`^alias ${type} = ([^;]+);`, 'm').exec(wgsl)?.[1];
  const bytes = alias ? bytesOf(alias, wgsl, constants) : typeBytes[type];
  if (bytes === undefined) throw new Error(`Unknown type ${type} in workgroup memory.`);
  return bytes;
}

/** Sum over all `var<workgroup>`, each rounded up to 16 bytes as WebGPU's limit counts them. Constants may refer to each other. */
export function workgroupMemory(wgsl: string): number {
  const constants = constantsOf(wgsl);
  let bytes = 0;
  for (const [, type] of wgsl.matchAll(/^var<workgroup> \w+: ([^;]+);/gm)) bytes += Math.ceil(bytesOf(type!, wgsl, constants) / 16) * 16;
  return bytes;
}
