/**
 * The figures on the page.
 */
import type { AdapterDescription } from 'pagewise';
import type { GenerationStats } from 'pagewise/engine';
import { adapterName, generationFigures, softwareNote, unknownValue } from '../shared/figures.ts';
import { element, make, setText } from './elements.ts';

/** The list of figures. */
export interface FiguresView {
  showAdapter(adapter: AdapterDescription | undefined): void;
  /** Shows what is known of a generation; undefined clears it. */
  update(stats: GenerationStats | undefined): void;
  showSeed(seed: number | undefined): void;
}

/** Fills the list of index.html. */
export function connectFigures(): FiguresView {
  const list = element('figures', HTMLElement);
  const addRow = (name: string, label: string, unit: string): HTMLElement => {
    const value = make('span', 'value', unknownValue);
    const row = make('div', 'figure', make('dt', '', label), make('dd', '', value, unit ? make('span', 'unit', ` ${unit}`) : ''));
    row.dataset.figure = name;
    row.toggleAttribute('data-unknown', true);
    list.append(row);
    return value;
  };
  const show = (value: HTMLElement, text: string): void => {
    setText(value, text);
    value.closest('.figure')?.toggleAttribute('data-unknown', text === unknownValue);
  };
  const values = new Map(generationFigures(undefined).map(({ name, label, unit }) => [name, addRow(name, label, unit)]));
  const seedValue = addRow('seed', 'Seed', '');
  const adapterValue = addRow('adapter', 'Adapter', '');

  return {
    showAdapter(adapter) {
      show(adapterValue, adapter ? adapterName(adapter) : unknownValue);
      if (adapter?.software) adapterValue.append(make('small', '', `Software: ${softwareNote}.`));
    },
    update(stats) {
      for (const { name, value } of generationFigures(stats)) {
        const target = values.get(name);
        if (target) show(target, value);
      }
    },
    showSeed(seed) {
      show(seedValue, seed === undefined ? unknownValue : String(seed));
    },
  };
}
