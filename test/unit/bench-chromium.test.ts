/** In a file of its own, beside which the benches in Deno run. */
import { expect, test } from 'vitest';
import { namesIn, runQuick } from './run-quick.ts';

test('the comparison runs in Chromium with onnxruntime-web, whose outputs and tokens are ours', { timeout: 300_000 }, async () => {
  const { written } = await runQuick('compare', '--filter', 'f32', '--host', 'chromium');
  expect(namesIn(written, 'f32')).toEqual(
    expect.arrayContaining(['ours', 'plain', 'onnxruntime', 'onnxruntime / ours', 'onnxruntime, error']),
  );
  const model = written.rows.filter(({ params }) => params.case === 'whole model');
  for (const way of ['ours', 'onnxruntime', 'onnxruntime static']) {
    for (const [name, unit] of [
      [way, 'tokens/s'],
      [`${way}, per token`, 'ms'],
      [`${way}, first token`, 'ms'],
    ])
      expect(model.find((row) => row.name === name)?.value, `${name}, ${unit}`).toBeGreaterThan(0);
  }
  expect(namesIn(written, 'f32')).toEqual(expect.arrayContaining(['onnxruntime static / ours, first token']));
  const notes = written.notes.join();
  expect(notes).not.toContain('FAILED');
  expect(notes.match(/its 3 tokens are ours/g)).toHaveLength(2);
});
