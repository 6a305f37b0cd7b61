/**
 * `pagewise/constrained`: output that follows a JSON schema, a regular expression or a grammar. Needs the package `@mlc-ai/web-xgrammar`; the rest
 * of Pagewise does not load it.
 */
import type { Tokenizer } from '../engine/tokenizer.ts';
import { ConstraintError, InvalidArgumentError } from '../errors.ts';
import { type JsonSchema, jsonTokens, writeOutRanges } from './schema.ts';
import { type Grammar, type GrammarMatcher, loadXGrammar, nextTokens } from './xgrammar.ts';

export type { JsonSchema } from './schema.ts';

/** What of an engine constraints need to know. */
export interface ConstrainedModel {
  readonly tokenizer: Tokenizer | undefined;
  readonly config: { readonly vocabSize: number; readonly eosTokenIds: readonly number[] };
  readonly defaults: { readonly eosTokenIds: readonly number[] | undefined };
}

export interface JsonOptions {
  /**
   * How JSON is laid out: `one-line` (default) writes `{"a": 1, "b": 2}`; a number of spaces indents; `any` leaves it to the model, which may
   * then write blanks without end.
   */
  readonly layout?: 'one-line' | 'any' | number;
  /** Objects and arrays have only what the schema names. Default true. */
  readonly strict?: boolean;
}

/**
 * What one generation's output has to follow. Pass `allowedTokens` to `engine.generate`; the constraint may serve several generations, one after
 * the other or at once, and the faster where they do not take turns.
 */
export interface Constraint {
  /**
   * The tokens that may come after `ids`, the output so far: bit i % 32 of word i / 32 is token i. Stop tokens are among them where the output may
   * end, and alone where it must.
   * @throws {ConstraintError} when `ids` do not follow the constraint themselves.
   */
  readonly allowedTokens: (ids: readonly number[]) => Uint32Array;
  /** Frees its memory in WebAssembly. */
  destroy(): void;
}

/** Makes constraints for one model. Owns its copy of the vocabulary in WebAssembly, until `destroy`. */
export interface Constraints {
  /**
   * JSON that a schema accepts. Its keywords are those that XGrammar knows: types, properties, required, items, enum, const, anyOf, oneOf, $ref, pattern,
   * formats, lengths and ranges among them; what it does not know it ignores. Integer ranges of up to 512 values are exact; of longer and
   * half-open ones, some bounds let their neighbours through.
   * @throws {ConstraintError} for a schema that it refuses; its reason is on the console.
   */
  jsonSchema(schema: JsonSchema, options?: JsonOptions): Promise<Constraint>;
  /** All of the output matches `pattern`. @throws {ConstraintError} */
  regex(pattern: string): Promise<Constraint>;
  /** All of the output is of a context-free grammar in XGrammar's EBNF: `root ::= "yes" | "no"`. @throws {ConstraintError} */
  grammar(ebnf: string, rootRule?: string): Promise<Constraint>;
  destroy(): void;
}

const spellings = { 'byte-level': 'byte_level', 'byte-fallback': 'byte_fallback', raw: 'raw' } as const;

/**
 * Gets ready to constrain a model's output: loads XGrammar, and gives it the vocabulary.
 *
 * @param model an engine, or what of it is asked for here.
 * @throws {InvalidArgumentError} for a model without tokenizer or end tokens. @throws {ConstraintError} when XGrammar cannot be loaded.
 */
export async function openConstraints(model: ConstrainedModel): Promise<Constraints> {
  const { tokenizer, config, defaults } = model;
  const stopTokens = defaults.eosTokenIds ?? config.eosTokenIds;
  if (!tokenizer) throw new InvalidArgumentError('model', 'without tokenizer', 'one whose files have tokenizer.json');
  if (stopTokens.length === 0) throw new InvalidArgumentError('model', 'without end tokens', 'one that names them: output could not end');
  const vocabulary = tokenizer.vocabulary();
  const { tokens, spelling } = vocabulary;
  const { vocabSize } = config;
  const xgrammar = await loadXGrammar();
  const info = await xgrammar.TokenizerInfo.createTokenizerInfo(tokens.slice(0, vocabSize), spellings[spelling], false, vocabSize, [
    ...stopTokens,
  ]);
  const compiler = await xgrammar.GrammarCompiler.createGrammarCompiler(info);

  const json = jsonTokens(vocabulary, vocabSize);

  /** Parses apart from the compiler, so that nothing of it is under way when a bad text ends the call. */
  async function constrain(
    kind: ConstraintError['constraint'],
    text: string,
    parse: () => Promise<Grammar>,
    only?: Uint32Array,
  ): Promise<Constraint> {
    let grammar: Grammar | undefined;
    try {
      grammar = await parse();
      const compiled = await compiler.compileGrammar(grammar);
      const matcher = await xgrammar.GrammarMatcher.createGrammarMatcher(compiled);
      compiled.dispose();
      return follow(matcher, vocabSize, only);
    } catch (error) {
      const shown = text.length > 80 ? `${text.slice(0, 77)}...` : text;
      throw new ConstraintError(kind, `XGrammar refuses ${shown}. Its reason is on the console.`, { cause: error });
    } finally {
      grammar?.dispose();
    }
  }

  return {
    jsonSchema(schema, { layout = 'one-line', strict = true } = {}) {
      const text = JSON.stringify(writeOutRanges(schema));
      const indent = typeof layout === 'number' ? layout : -1;
      return constrain('schema', text, () => xgrammar.Grammar.fromJSONSchema(text, layout === 'any', indent, undefined, strict), json);
    },
    regex(pattern) {
      const tag = { type: 'structural_tag', format: { type: 'regex', pattern } } as const;
      return constrain('regex', pattern, () => xgrammar.Grammar.fromStructuralTag(tag));
    },
    grammar: (ebnf, rootRule) => constrain('grammar', ebnf, () => xgrammar.Grammar.fromEBNF(ebnf, rootRule)),
    destroy() {
      compiler.dispose();
      info.dispose();
    },
  };
}

/** A function of the ids alone, around a matcher that remembers: what the ids have in common with the last ones stays matched. */
function follow(matcher: GrammarMatcher, vocabSize: number, only: Uint32Array | undefined): Constraint {
  const matched: number[] = [];
  return {
    allowedTokens(ids) {
      let common = 0;
      while (common < matched.length && matched[common] === ids[common]) common++;
      if (common < matched.length) matcher.rollBack(matched.length - common);
      matched.length = common;
      for (const id of ids.slice(common)) {
        if (!matcher.acceptToken(id)) throw new ConstraintError('output', `token ${id} cannot stand at place ${matched.length}.`);
        matched.push(id);
      }
      const mask = nextTokens(matcher, vocabSize);
      return only ? mask.map((word, i) => word & only[i]) : mask;
    },
    destroy: () => matcher.dispose(),
  };
}
