/**
 * What the program says about a generation: the table at its end, and the JSON object.
 */
import Table from 'cli-table3';
import type { AdapterDescription } from 'pagewise';
import type { GenerationResult } from 'pagewise/engine';
import { adapterName, generationFigures, softwareNote } from '../shared/figures.ts';

/** An adapter, and how it was reached. */
export interface AdapterReport extends AdapterDescription {
  readonly name: string;
  /** The graphics API below WebGPU; undefined where nobody told. */
  readonly backend: string | undefined;
  /** Where the driver was found; undefined where nobody told. */
  readonly driver: string | undefined;
}

/** The launching script tells the backend and the driver through the environment. */
export function reportAdapter(adapter: AdapterDescription, environment: Readonly<Record<string, string | undefined>>): AdapterReport {
  return {
    ...adapter,
    name: adapterName(adapter),
    backend: environment.PAGEWISE_BACKEND || undefined,
    driver: environment.PAGEWISE_DRIVER_DESCRIPTION || undefined,
  };
}

/** An adapter in one line. */
export function adapterLine({ name, backend, driver, software }: AdapterReport): string {
  const reached = [backend, driver].filter(Boolean).join(', ');
  return `${name}${reached && ` (${reached})`}${software ? `. A software adapter: ${softwareNote}.` : ''}`;
}

/** The lines of the table. */
export function resultTable(result: GenerationResult, adapter: AdapterReport, seed: number | undefined): string {
  const { draftedTokens, acceptedTokens = 0 } = result.stats;
  const rows = [
    ['Adapter', adapter.name],
    ...(adapter.backend || adapter.driver ? [['Backend, driver', [adapter.backend, adapter.driver].filter(Boolean).join(', ')]] : []),
    ...(adapter.software ? [['', `software: ${softwareNote}`]] : []),
    ...generationFigures(result.stats).map(({ label, value, unit }) => [label, unit ? `${value} ${unit}` : value]),
    ...(draftedTokens === undefined ? [] : [['Guessed', `${acceptedTokens} of ${draftedTokens} tokens were right`]]),
    ...(seed === undefined ? [] : [['Seed', String(seed)]]),
    ['Ended', endings[result.finishReason]],
  ];
  const table = new Table({ chars: noLines, style: { head: [], border: [], 'padding-left': 0, 'padding-right': 2 } });
  table.push(...rows);
  return table.toString().replaceAll(/[ \t]+$/gm, '');
}

/** The object of `--json`. */
export function resultObject({ text, promptIds, ids, stats }: GenerationResult, adapter: AdapterReport): Record<string, unknown> {
  return { text, promptIds, ids, adapter, stats };
}

const endings: Readonly<Record<GenerationResult['finishReason'], string>> = {
  stop: 'by the model: the text is complete',
  length: 'at the limit of tokens',
  abort: 'by an interrupt',
};

const noLines = {
  top: '',
  'top-mid': '',
  'top-left': '',
  'top-right': '',
  bottom: '',
  'bottom-mid': '',
  'bottom-left': '',
  'bottom-right': '',
  left: '',
  'left-mid': '',
  mid: '',
  'mid-mid': '',
  right: '',
  'right-mid': '',
  middle: '',
};
