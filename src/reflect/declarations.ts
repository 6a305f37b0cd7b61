/**
 * Takes WGSL text apart into its module-scope declarations, without understanding them. Pure text work: function bodies, which a parser
 * could stumble over, are never parsed.
 */

/** A declaration at module scope. */
export interface Declaration {
  readonly kind: 'fn' | 'struct' | 'var' | 'override' | 'const' | 'alias' | 'other';
  /** Empty for directives and assertions. */
  readonly name: string;
  /** Without comments, from the first attribute to the closing `;` or `}`. */
  readonly text: string;
  /** Where `text` starts in the module. */
  readonly start: number;
}

/** Identifiers as WGSL has them. */
export const identifier = /[\p{XID_Start}_]\p{XID_Continue}*/gu;

const head =
  /^(?:@\s*[\w]+\s*(?:\((?:[^()]|\([^()]*\))*\)\s*)?)*(fn|struct|var|override|const|alias)(?:\s*<[^>]*>)?\s+([\p{XID_Start}_]\p{XID_Continue}*)/u;

/** The text with blanks in the place of comments; every other character keeps its place. */
export function blankComments(wgsl: string): string {
  let result = '';
  for (let at = 0; at < wgsl.length; ) {
    const end = wgsl.startsWith('//', at) ? endOfLine(wgsl, at) : wgsl.startsWith('/*', at) ? endOfBlock(wgsl, at) : at;
    result += end > at ? wgsl.slice(at, end).replaceAll(/[^\n]/g, ' ') : wgsl[at];
    at = Math.max(end, at + 1);
  }
  return result;
}

/** The declarations in order. */
export function splitDeclarations(wgsl: string): Declaration[] {
  const text = blankComments(wgsl);
  const found: Declaration[] = [];
  let depth = 0;
  let start = 0;
  for (let at = 0; at < text.length; at++) {
    const character = text[at];
    if ('([{'.includes(character)) depth++;
    if (')]}'.includes(character)) depth--;
    if (depth > 0 || (character !== ';' && character !== '}')) continue;
    const whole = text.slice(start, at + 1);
    const trimmed = whole.trimStart();
    if (trimmed !== ';') found.push(describe(trimmed, start + whole.length - trimmed.length));
    start = at + 1;
  }
  return found;
}

/** Names of the functions marked `@compute`. */
export function computeEntryPoints(declarations: readonly Declaration[]): string[] {
  const isEntryPoint = ({ kind, text }: Declaration) => kind === 'fn' && /@\s*compute\b/.test(text.slice(0, text.indexOf('{')));
  return declarations.filter(isEntryPoint).map(({ name }) => name);
}

/** What the entry point's text leads to, by name. A local name that hides a declaration counts as a use of it. */
export function reachableFrom(entryPoint: string, declarations: readonly Declaration[]): Declaration[] {
  const byName = new Map(declarations.map((one) => [one.name, one]));
  const seen = new Set<string>([entryPoint]);
  for (const name of seen) {
    for (const [word] of byName.get(name)?.text.matchAll(identifier) ?? []) if (byName.has(word)) seen.add(word);
  }
  return declarations.filter(({ name }) => seen.has(name));
}

function describe(text: string, start: number): Declaration {
  const match = head.exec(text);
  if (!match) return { kind: 'other', name: '', text, start };
  return { kind: match[1] as Declaration['kind'], name: match[2], text, start };
}

function endOfLine(text: string, at: number): number {
  const end = text.indexOf('\n', at);
  return end < 0 ? text.length : end;
}

/** Block comments nest in WGSL. */
function endOfBlock(text: string, at: number): number {
  let depth = 0;
  for (let i = at; i < text.length; i++) {
    if (text.startsWith('/*', i)) {
      depth++;
      i++;
    } else if (text.startsWith('*/', i)) {
      depth--;
      i++;
      if (depth === 0) return i + 1;
    }
  }
  return text.length;
}
