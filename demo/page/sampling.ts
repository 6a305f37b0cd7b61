/**
 * The fields for sampling: what they say, and what is wrong with it.
 */
import type { GenerateOptions, GenerationDefaults } from 'pagewise/engine';
import { numberRules, parseNumber, randomSeed } from '../shared/numbers.ts';
import { element, setText } from './elements.ts';

const names = ['temperature', 'topK', 'topP', 'maxTokens', 'seed'] as const;

type FieldName = (typeof names)[number];

/** The options of a generation that the fields set. */
export type SamplingOptions = Pick<GenerateOptions, FieldName>;

/** The fields. */
export interface SamplingFields {
  /** Puts a model's own recommendations into the fields that nobody has touched. */
  suggest(defaults: GenerationDefaults): void;
  /** The options; undefined when a field is wrong, which is then marked, explained and given the focus. */
  read(): SamplingOptions | undefined;
}

/** Connects to the fields of index.html. */
export function connectSampling(): SamplingFields {
  const inputs = names.map((name) => ({ name, input: element(name, HTMLInputElement) }));
  const problem = element('sampling-problem', HTMLElement);
  for (const { input } of inputs) {
    input.addEventListener('input', () => {
      input.dataset.touched = '';
      check();
    });
  }

  /** Marks what is wrong and explains the first of it. */
  function check(): HTMLInputElement | undefined {
    const wrong = inputs.filter(({ name, input }) => readField(name, input) === 'wrong');
    for (const { input } of inputs) {
      const isWrong = wrong.some((field) => field.input === input);
      if (isWrong) input.setAttribute('aria-invalid', 'true');
      else input.removeAttribute('aria-invalid');
    }
    const first = wrong[0];
    setText(problem, first ? `${labelOf(first.input)} must be ${numberRules[first.name].expected}.` : '');
    problem.hidden = !first;
    return first?.input;
  }

  return {
    suggest(defaults) {
      for (const { name, input } of inputs) {
        if (name !== 'maxTokens' && name !== 'seed' && !('touched' in input.dataset)) input.value = String(defaults[name]);
      }
      check();
    },
    read() {
      const wrong = check();
      if (wrong) {
        wrong.focus();
        return undefined;
      }
      const values = inputs.map(({ name, input }) => [name, readField(name, input)] as const);
      const options: SamplingOptions = Object.fromEntries(values);
      return { ...options, seed: options.seed ?? randomSeed() };
    },
  };
}

/** An empty field leaves the choice to the model. */
function readField(name: FieldName, input: HTMLInputElement): number | undefined | 'wrong' {
  if (input.validity.badInput) return 'wrong';
  if (input.value.trim() === '') return undefined;
  return parseNumber(input.value, numberRules[name]) ?? 'wrong';
}

function labelOf(input: HTMLInputElement): string {
  return input.labels?.[0]?.textContent?.trim() ?? input.id;
}
