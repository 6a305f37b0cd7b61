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
