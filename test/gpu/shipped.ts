/** The shipped model and its golden files, for the specs. */
import { Engine, type EngineOptions, filesFrom } from '../../src/engine/index.ts';
import type { SpecContext } from '../harness/harness.ts';

export interface GoldenPrompt {
  readonly text: string;
  readonly ids: readonly number[];
  readonly greedy_ids: readonly number[];
  readonly greedy_text: string;
  readonly greedy_margins: readonly number[];
  readonly top5: { readonly ids: readonly number[]; readonly logits: readonly number[] };
}

export interface EvalPassage {
  readonly source: string;
  readonly ids: readonly number[];
  readonly nll: readonly number[];
}

/**
 * Loads the model of a repository folder; destroyed after the spec. In f32 also where the device has matrices, unless asked otherwise: golden files are, and
 * what is compared bit by bit may differ in its number of rows.
 */
export async function loadEngine(t: SpecContext, options: EngineOptions = {}, folder = 'demo/model', gpu = t.gpu): Promise<Engine> {
  const files = filesFrom(folder, (name) => t.readFile(`${folder}/${name}`).catch(() => undefined));
  const engine = await Engine.load(gpu, files, { subgroupMatrices: false, ...options });
  t.defer(() => engine.destroy());
  return engine;
}

export async function readJson<T>(t: SpecContext, path: string): Promise<T> {
  return JSON.parse(new TextDecoder().decode(await t.readFile(path)));
}

export async function goldenPrompts(t: SpecContext): Promise<readonly GoldenPrompt[]> {
  return (await readJson<{ prompts: GoldenPrompt[] }>(t, 'test/golden/golden.json')).prompts;
}

export async function evalPassages(t: SpecContext): Promise<readonly EvalPassage[]> {
  return (await readJson<{ passages: EvalPassage[] }>(t, 'test/golden/eval.json')).passages;
}
