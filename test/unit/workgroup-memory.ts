/** How many bytes of workgroup memory a WGSL text declares, worked out from the text alone. */

/** Bytes of the types that our kernels keep in workgroup memory. */
const typeBytes: Readonly<Record<string, number>> = { f32: 4, u32: 4, 'atomic<u32>': 4, vec2f: 8, vec4f: 16, Eight: 32, Span: 24 };

/** Sum over all `var<workgroup>`, each rounded up to 16 bytes as WebGPU's limit counts them. Constants may refer to each other. */
export function workgroupMemory(wgsl: string): number {
  const constants = new Map([...wgsl.matchAll(/^const (\w+)(?:: \w+)? = ([^;]+);/gm)].map(([, name, text]) => [name!, text!]));
  let bytes = 0;
  for (const [, type] of wgsl.matchAll(/^var<workgroup> \w+: ([^;]+);/gm)) {
    const array = /^array<(.+), ([^,]+)>$/.exec(type!);
    const size = typeBytes[array ? array[1]! : type!];
    if (size === undefined) throw new Error(`Unknown type ${type} in workgroup memory.`);
    bytes += Math.ceil((size * (array ? evaluate(array[2]!, constants) : 1)) / 16) * 16;
  }
  return bytes;
}

/** The value of a u32 expression of literals, constants, + - * /, min, max and parentheses. */
export function evaluate(text: string, constants: ReadonlyMap<string, string>): number {
  const tokens = text.match(/\d+|\w+|[^\s]/g) ?? [];
  let next = 0;
  const take = (): string => tokens[next++] ?? '';
  const expect = (token: string): void => {
    const found = take();
    if (found !== token) throw new Error(`Expected "${token}" in "${text}", not "${found}".`);
  };
  const sum = (): number => {
    let value = product();
    while (tokens[next] === '+' || tokens[next] === '-') value = take() === '+' ? value + product() : value - product();
    return value;
  };
  const product = (): number => {
    let value = operand();
    while (tokens[next] === '*' || tokens[next] === '/') value = take() === '*' ? value * operand() : Math.floor(value / operand());
    return value;
  };
  const operand = (): number => {
    const token = take();
    if (/^\d/.test(token)) {
      if (tokens[next] === 'u') next++;
      return Number(token);
    }
    if (token === '(') {
      const value = sum();
      expect(')');
      return value;
    }
    if (token === 'min' || token === 'max') {
      expect('(');
      const a = sum();
      expect(',');
      const b = sum();
      expect(')');
      return token === 'min' ? Math.min(a, b) : Math.max(a, b);
    }
    const constant = constants.get(token);
    if (constant === undefined) throw new Error(`No constant "${token}" for "${text}".`);
    return evaluate(constant, constants);
  };
  const value = sum();
  if (next !== tokens.length) throw new Error(`"${text}" goes on after "${tokens.slice(0, next).join(' ')}".`);
  return value;
}
