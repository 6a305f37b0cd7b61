import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { filesFromFolder } from '../../demo/terminal/folder.ts';
import { parseModelConfig } from '../../src/engine/config.ts';
import { readJson } from '../../src/engine/files.ts';
import { openSafetensors } from '../../src/engine/safetensors.ts';
import { referenceLogits } from './reference.ts';

interface FixtureGolden {
  readonly ids: readonly (readonly number[])[];
  readonly positions: readonly number[];
  /** [sequence][index into positions][token] */
  readonly logits: readonly (readonly (readonly number[])[])[];
  readonly greedy: readonly (readonly number[])[];
}

const golden = (path: string): unknown => JSON.parse(readFileSync(path, 'utf8'));

describe('a window of the reference', () => {
  it('sees as many keys in each layer, and no more', async () => {
    const files = filesFromFolder('test/golden/fixtures/llama');
    const config = parseModelConfig(await readJson(files, 'config.json'));
    const tensors = await openSafetensors(files);
    const ids = Array.from({ length: 20 }, (_, i) => 3 + 7 * i);
    const last = async (slidingWindow: number | undefined, changed = ids) =>
      (await referenceLogits({ ...config, slidingWindow }, tensors, changed)).at(-1);
    const base = await last(4);
    // Four layers of four keys reach 12 tokens back: from 19 to 7.
    expect(await last(4, ids.with(6, 1))).toEqual(base);
    expect(await last(4, ids.with(7, 1))).not.toEqual(base);
    expect(await last(20)).toEqual(await last(undefined));
    expect(await last(19)).not.toEqual(await last(undefined));
    tensors.close();
  });
});

describe('config, weights and rotary table, through a plain forward pass, agree with transformers', () => {
  it.each(['llama', 'llama-bias', 'llama-linear-rope', 'llama-yarn', 'llama3-rope'])('%s', async (name) => {
    const folder = `test/golden/fixtures/${name}`;
    const files = filesFromFolder(folder);
    const config = parseModelConfig(await readJson(files, 'config.json'));
    const tensors = await openSafetensors(files);
    const { ids, positions, logits } = golden(`${folder}/golden.json`) as FixtureGolden;
    let largest = 0;
    for (const [sequence, sequenceIds] of ids.entries()) {
      const computed = await referenceLogits(config, tensors, sequenceIds);
      for (const [index, position] of positions.entries()) {
        for (const [token, expected] of logits[sequence]![index]!.entries()) {
          largest = Math.max(largest, Math.abs(computed[position]![token]! - expected));
        }
      }
    }
    tensors.close();
    expect(largest).toBeLessThan(2e-5); // the golden logits are rounded to five digits;
  });
});
