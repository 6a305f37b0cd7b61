/**
 * The figures of a generation in words and numbers, the same in the terminal and in the page.
 */
import type { AdapterDescription } from 'pagewise';
import type { GenerationStats } from 'pagewise/engine';

/** One line of the table. */
export interface Figure {
  readonly name: keyof GenerationStats;
  readonly label: string;
  readonly value: string;
  /** What the value counts; empty where the label says it. */
  readonly unit: string;
}

/** Stands for a value that is not known yet. */
export const unknownValue = '–';

/** What a generation measured, in the order in which it is shown. Without stats, every value is unknown. */
export function generationFigures(stats: GenerationStats | undefined): readonly Figure[] {
  const read = (format: (stats: GenerationStats) => string): string => (stats ? format(stats) : unknownValue);
  return [
    { name: 'promptTokens', label: 'Prompt', unit: 'tokens', value: read((s) => count(s.promptTokens)) },
    { name: 'outputTokens', label: 'Output', unit: 'tokens', value: read((s) => count(s.outputTokens)) },
    { name: 'timeToFirstToken', label: 'Time to first token', unit: 'ms', value: read((s) => measure(s.timeToFirstToken)) },
    { name: 'tokensPerSecond', label: 'Speed', unit: 'tokens/s', value: read((s) => measure(s.tokensPerSecond)) },
    { name: 'launchesPerToken', label: 'Launches per token', unit: '', value: read((s) => measure(s.launchesPerToken)) },
    { name: 'pipelinesCompiled', label: 'Pipelines compiled', unit: '', value: read((s) => count(s.pipelinesCompiled)) },
    { name: 'hostTimePerStep', label: 'Host time per step', unit: 'ms', value: read((s) => measure(s.hostTimePerStep)) },
    { name: 'runAhead', label: 'Run-ahead', unit: 'steps', value: read((s) => count(s.runAhead)) },
  ];
}

/** An adapter's name, from what it says of itself: hosts differ in where they put it. */
export function adapterName({ vendor, architecture, device, description }: AdapterDescription): string {
  // Some give numbers of the PCI registry, which tell a reader nothing.
  const isWord = (text: string): boolean => text !== '' && !/^((0x)?[\da-f]{4,8}|\d+)$/i.test(text);
  const names = [device, description].filter(isWord);
  if (names.length > 0) return names.join(', ');
  return [vendor, architecture].filter(isWord).join(' ') || 'an adapter that does not name itself';
}

/** Completes "A software adapter: ...". */
export const softwareNote = 'it computes on the processor, not on a GPU, and is slow';

/** A positive number with three digits that count; a zero or NaN was not measured. */
function measure(value: number): string {
  if (!(value > 0) || value === Number.POSITIVE_INFINITY) return unknownValue;
  if (value >= 100) return count(value);
  return value.toFixed(Number.isInteger(value) ? 0 : value >= 10 ? 1 : 2);
}

function count(value: number): string {
  return Math.round(value).toLocaleString('en');
}
