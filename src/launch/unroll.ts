/**
 * Writes WGSL loops out. Not every host's compiler unrolls them, and an array whose index is known only at run time lives in memory instead of
 * registers. A loop asks for it by a comment behind its head, `for (var i = 0u; i < COUNT; i++) { // unrolled`, where COUNT is made of
 * constants of the text; each round becomes a block with a constant `i`. Behind `// unrolled if NAME` the constant NAME decides. Pure.
 */

const head = /^([ \t]*)(for \(var (\w+) = 0u; \3 < ([^;]+); \3\+\+\) \{) \/\/ unrolled(?: if (\w+))?$/m;

/** Finds the name in the counts of loops that are to be written out. */
const innerHead = (name: string) => new RegExp(`(; \\w+ < [^;]*)\\b${name}\\b([^;]*; \\w+\\+\\+\\) \\{ // unrolled)`, 'g');

/** @throws {Error} for a count that is not made of the text's constants, which is a mistake of the kernel's author */
export function unrollLoops(wgsl: string): string {
  let text = wgsl;
  let constants: ReadonlyMap<string, string> | undefined;
  for (let match = head.exec(text); match; match = head.exec(text)) {
    constants ??= constantsOf(wgsl);
    const [line, indent, loop, name, count, condition] = match;
    if (condition !== undefined && !isTrue(condition, constants)) {
      text = text.replace(line, `${indent}${loop}`);
      continue;
    }
    const bodyBegin = match.index + line.length;
    // The loop ends with the brace under its head.
    const end = text.indexOf(`\n${indent}}`, bodyBegin);
    const body = text.slice(bodyBegin, end);
    const rounds = Array.from(
      { length: evaluate(count, constants) },
      // A loop within this one may count by its constant.
      (_, i) => `${indent}{\n${indent}  const ${name} = ${i}u;${body.replaceAll(innerHead(name), `$1${i}u$2`)}\n${indent}}`,
    );
    text = text.slice(0, match.index) + rounds.join('\n') + text.slice(end + `\n${indent}}`.length);
  }
  return text;
}

function isTrue(name: string, constants: ReadonlyMap<string, string>): boolean {
  const value = constants.get(name);
  if (value !== 'true' && value !== 'false') throw new Error(`"${name}" is no constant that is true or false.`);
  return value === 'true';
}

/** Of a text's module constants, name and expression. */
export function constantsOf(wgsl: string): ReadonlyMap<string, string> {
  return new Map([...wgsl.matchAll(/^const (\w+)(?:: \w+)? = ([^;]+);/gm)].map(([, name, text]) => [name, text]));
}

/** The value of a u32 expression of literals, constants, + - * / >>, min, max, select by a constant, and parentheses. */
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
    while (['*', '/', '>'].includes(tokens[next] ?? '')) {
      const operator = take();
      if (operator === '>') expect('>');
      value = operator === '*' ? value * operand() : Math.floor(value / (operator === '/' ? operand() : 2 ** operand()));
    }
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
    if (token === 'select') {
      expect('(');
      const no = sum();
      expect(',');
      const yes = sum();
      expect(',');
      const condition = constants.get(take());
      expect(')');
      return condition === 'true' ? yes : no;
    }
    const constant = constants.get(token);
    if (constant === undefined) throw new Error(`No constant "${token}" for "${text}".`);
    return evaluate(constant, constants);
  };
  const value = sum();
  if (next !== tokens.length) throw new Error(`"${text}" goes on after "${tokens.slice(0, next).join(' ')}".`);
  return value;
}
