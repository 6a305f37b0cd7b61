import { AttentionModificationError, InvalidArgumentError, KernelCompileError } from '../errors.ts';
import type { ScalarType } from '../launch/kernel.ts';

/**
 * WGSL of the caller's, compiled into the decode and prefill kernels (the idea is that of FlexAttention, Dong et al. 2024).
 *
 * - `scoreMod`: `fn scoreMod(score: f32, head: u32, query: u32, key: u32, token: u32) -> f32`, after the softcap and before every mask and bias;
 * - `maskMod`: `fn maskMod(head: u32, query: u32, key: u32, token: u32) -> bool`; false masks. It only takes keys away: what lies outside the
 *   causal order and the window stays masked.
 *
 * `head` is the query head, `query` and `key` count tokens from the start of the sequence, `token` is the row in the packed query.
 * The text may declare functions and constants of its own. It reads its `scalars` as `args.name`, and its `data` (f32) as `modData(i)`.
 */
export interface AttentionModifications {
  readonly scoreMod?: string;
  readonly maskMod?: string;
  /** Per-call values by name: their WGSL types. Values come with each layer, and changing them compiles nothing. */
  readonly scalars?: Readonly<Record<string, ScalarType>>;
}

/** As the kernels' prelude takes it. */
export interface PreparedModifications {
  readonly wgsl: string;
  readonly scalars: Readonly<Record<string, ScalarType>>;
}

const signatures = {
  scoreMod: 'fn scoreMod(score: f32, head: u32, query: u32, key: u32, token: u32) -> f32',
  maskMod: 'fn maskMod(head: u32, query: u32, key: u32, token: u32) -> bool',
} as const;
type ModificationName = keyof typeof signatures;
const defaults = { scoreMod: 'return score;', maskMod: 'return true;' } as const;

const begin = (name: string) => `// begin of the caller's ${name}`;
const end = (name: string) => `// end of the caller's ${name}`;

/** @throws {InvalidArgumentError} for a text without the function, or a scalar whose name is taken or is no name. */
export function prepareModifications(modifications: AttentionModifications, taken: readonly string[]): PreparedModifications {
  const { scalars = {} } = modifications;
  for (const [name, type] of Object.entries(scalars)) {
    if (!/^[a-zA-Z][a-zA-Z0-9_]*$/.test(name) || taken.includes(name))
      throw new InvalidArgumentError('scalars', name, `a WGSL name other than ${taken.join(', ')}`);
    if (type !== 'u32' && type !== 'i32' && type !== 'f32') throw new InvalidArgumentError(`scalars.${name}`, type, 'one of u32, i32, f32');
  }
  const parts = (Object.keys(signatures) as ModificationName[]).map((name) => {
    const text = modifications[name];
    const flag = `const has${name[0].toUpperCase()}${name.slice(1)} = ${text !== undefined};`;
    if (text === undefined) return `${flag}\n${signatures[name]} { ${defaults[name]} }`;
    if (!new RegExp(`fn\\s+${name}\\s*\\(`).test(text))
      throw new InvalidArgumentError(name, text, `WGSL that declares \`${signatures[name]}\``);
    return `${flag}\n${begin(name)}\n${text}\n${end(name)}`;
  });
  return { wgsl: ['fn modData(i: u32) -> f32 { return layerData[2u * numHeads + i]; }', ...parts].join('\n'), scalars };
}

export const noModifications: PreparedModifications = prepareModifications({}, []);

/** A compile error whose place is in the caller's text becomes one that speaks of that text; others stay what they are. */
export function pointIntoModification(error: unknown, modifications: AttentionModifications): unknown {
  if (!(error instanceof KernelCompileError)) return error;
  const lines = error.source.split('\n');
  for (const name of Object.keys(signatures) as ModificationName[]) {
    const text = modifications[name];
    if (text === undefined) continue;
    const first = lines.findIndex((line) => line.endsWith(begin(name))) + 2; // the number of the text's first line
    const last = lines.findIndex((line) => line.endsWith(end(name)));
    for (const [, number, message] of error.compilerMessage.matchAll(/line (\d+): (.*)/g)) {
      if (Number(number) >= first && Number(number) <= last)
        return new AttentionModificationError(name, Number(number) - first + 1, message, text, { cause: error });
    }
  }
  return error;
}
