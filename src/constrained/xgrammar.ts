/** Loads XGrammar (Dong et al. 2024, Apache-2.0), compiled to WebAssembly: the npm package `@mlc-ai/web-xgrammar`. */
import { ConstraintError } from '../errors.ts';

/** The package's exports. */
export type XGrammar = Pick<typeof import('@mlc-ai/web-xgrammar'), 'Grammar' | 'GrammarCompiler' | 'GrammarMatcher' | 'TokenizerInfo'>;
export type Grammar = InstanceType<XGrammar['Grammar']>;
export type GrammarMatcher = Awaited<ReturnType<XGrammar['GrammarMatcher']['createGrammarMatcher']>>;

/** Where the package's bundle leaves its exports when it is loaded as a module, and where it looks for its own address. */
type Scope = typeof globalThis & { xgrammar?: XGrammar };

/**
 * The package says that it is a module, but is a script for browsers: a bundler finds its exports, while Node, Deno and a browser that loads
 * it as a module find them on `globalThis`, and only where there is a `location`. So there is one until the WebAssembly has started.
 *
 * @throws {ConstraintError} when the package is not installed, or is another than it was.
 */
export async function loadXGrammar(): Promise<XGrammar> {
  const scope: Scope = globalThis;
  const hasLocation = typeof scope.location !== 'undefined';
  const previous = Object.getOwnPropertyDescriptor(scope, 'location');
  if (!hasLocation) Object.defineProperty(scope, 'location', { value: { href: import.meta.url }, configurable: true });
  try {
    const module = (await import('@mlc-ai/web-xgrammar')) as Partial<XGrammar> & { readonly default?: Partial<XGrammar> };
    const library = [module, module.default, scope.xgrammar].find((candidate) => candidate?.GrammarMatcher);
    if (!library) throw new Error('the package has no GrammarMatcher');
    // The first call starts the WebAssembly.
    const probe = await (library as XGrammar).TokenizerInfo.createTokenizerInfo(['a'], 'raw', false, 1, [0]);
    probe.dispose();
    return library as XGrammar;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ConstraintError('library', `@mlc-ai/web-xgrammar cannot be loaded (${reason}). Install version 0.1.27 of it.`, {
      cause: error,
    });
  } finally {
    if (!hasLocation) {
      Reflect.deleteProperty(scope, 'location');
      if (previous) Object.defineProperty(scope, 'location', previous);
    }
  }
}

/** What of a matcher's handle into WebAssembly is used. The package's own `getNextTokenBitmask` is asynchronous, though nothing in it waits. */
interface MatcherHandle {
  GetNextTokenBitmask(vocabSize: number): { size(): number; get(index: number): number; delete(): void };
}

/** The tokens that may come next, as a bit mask: bit i % 32 of word i / 32 is token i. A new array each time. */
export function nextTokens(matcher: GrammarMatcher, vocabSize: number): Uint32Array {
  const handle: MatcherHandle = Reflect.get(matcher, 'handle');
  const words = handle.GetNextTokenBitmask(vocabSize);
  try {
    const mask = Uint32Array.from({ length: words.size() }, (_, i) => words.get(i));
    // Bits behind the last token are set, too.
    if (vocabSize % 32 !== 0) mask[mask.length - 1] &= (1 << (vocabSize % 32)) - 1;
    return mask;
  } finally {
    words.delete();
  }
}
