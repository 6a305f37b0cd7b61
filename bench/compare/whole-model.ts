/** The shipped model, decoded greedily by the engine and by onnxruntime-web on one device: the same prompt, the same tokens, in turn. */
import type { Gpu } from 'pagewise';
import { Engine } from 'pagewise/engine';
import { openSafetensors } from '../../src/engine/safetensors.ts';
import { shippedFiles } from '../generate/models.ts';
import { type BenchHost, type BenchOptions, type BenchRow, rowOf } from '../report.ts';
import type { LlamaType } from './llama-graph.ts';
import { type LlamaWeights, readLlamaWeights } from './llama-weights.ts';
import type { Decoded, OnnxruntimeLlama } from './onnxruntime-llama.ts';
import { behindBest, describeTokens, expectGolden, expectOurTokens, type Golden, likeliest, logitDifference } from './tokens.ts';

/** What is decoded. */
interface Task {
  readonly gpu: Gpu;
  readonly host: BenchHost;
  readonly engine: Engine;
  readonly promptIds: readonly number[];
  /** Our tokens, which are right. */
  readonly ours: readonly number[];
}

/** A way to decode the task. */
interface Way {
  readonly name: string;
  readonly decode: () => Promise<Decoded>;
  /** How its tokens compare with ours, in words. Throws when they are wrong. */
  readonly judge?: (ids: readonly number[]) => string;
}

/** Another's ways that can be run here, what was found when they were checked, and what a reader must know. */
interface Rivals {
  readonly ways: readonly Way[];
  readonly rows: readonly BenchRow[];
  readonly notes: readonly string[];
  destroy(): Promise<void>;
}

/** The types that onnxruntime has the model in: what `--filter` chooses from. */
export const wholeModelCases = (['f16', 'f32'] as const).map((type) => ({ type, name: `whole model, ${type}` }));

/**
 * What rounding explains, in logits: how far behind onnxruntime's choice our token may be to count as a near tie, and how far any logit may be off.
 * In f16 it adds up in f16. A wrong graph is off by several.
 */
const tolerances: Readonly<Record<LlamaType, { readonly nearTie: number; readonly logit: number }>> = {
  f32: { nearTie: 2e-3, logit: 4e-3 },
  f16: { nearTie: 0.5, logit: 1 },
};

/** onnxruntime's ways to keep keys and values. */
const cachings: readonly { readonly name: string; readonly how: string; readonly capacity?: (tokens: number) => number }[] = [
  { name: 'onnxruntime', how: 'as transformers.js runs it, each step copies the KV cache into a new one, on the GPU' },
  {
    name: 'onnxruntime static',
    how: 'past and present are the same buffers of a fixed length',
    capacity: (tokens) => Math.ceil(tokens / 64) * 64,
  },
];

/** Ours and onnxruntime's: times, ratios, and how the tokens compare. @throws {Error} when tokens are wrong */
export async function compareWholeModel(gpu: Gpu, host: BenchHost, options: BenchOptions, types: readonly LlamaType[]) {
  const { software } = gpu.adapter;
  const rounds = options.rounds ?? (options.quick ? 1 : software ? 3 : 9);
  const maxTokens = options.quick ? 3 : software ? 12 : 128;
  const golden: Golden = JSON.parse(new TextDecoder().decode(await host.readFile('test/golden/golden.json'))).prompts[0];
  const engine = await Engine.load(gpu, shippedFiles(host));
  try {
    const decode = async (): Promise<Decoded> => {
      const { ids, stats, cachedTokens } = await engine.generate(golden.ids, { temperature: 0, maxTokens }).result;
      if (cachedTokens > 0) throw new Error(`${cachedTokens} tokens of the prompt came from the prefix cache: its time says nothing.`);
      return { ids, firstToken: stats.timeToFirstToken, perToken: 1000 / stats.tokensPerSecond };
    };
    const { ids: ours } = await decode();
    expectGolden(ours, golden);
    const rows: BenchRow[] = [];
    const notes = [
      `Whole model: the shipped one, greedy, batch 1, ${golden.ids.length} tokens of prompt and ${ours.length} more; in turn, medians of ${rounds} rounds, everything compiled before. KV is the type that onnxruntime has the model in. Ours runs with its default options in both: weights in f16, arithmetic and KV in f32.`,
      'First token: from the request until it is on the host. Per token: of those after the first; tokens/s is its inverse.',
      '"Error" rows of the whole model: the largest difference from our logits after the last token.',
    ];
    const task: Task = { gpu, host, engine, promptIds: golden.ids, ours };
    for (const type of types) {
      const rivals = await openRivals(task, type);
      try {
        notes.push(...rivals.notes);
        // Our own times are the same in both.
        if (rivals.ways.length === 0 && type === 'f16') continue;
        const ways: readonly Way[] = [{ name: 'ours', decode }, ...rivals.ways];
        const runs = await runInTurn(ways, rounds);
        ways.forEach(({ name, judge }, i) => {
          if (judge) notes.push(`${name}, whole model, ${type}: ${judge(runs[i][0].ids)}.`);
        });
        rows.push(...rowsOf(type, ways, runs), ...rivals.rows);
      } finally {
        await rivals.destroy();
      }
      host.print(`whole model, ${type}: done`);
    }
    return { rows, notes };
  } finally {
    engine.destroy();
  }
}

/** onnxruntime's ways, each held against our tokens and logits; none where it cannot run. @throws {Error} when its logits are wrong */
async function openRivals(task: Task, type: LlamaType): Promise<Rivals> {
  const { gpu, host, engine, promptIds, ours } = task;
  const ways: Way[] = [];
  const rows: BenchRow[] = [];
  const notes: string[] = [];
  const opened: OnnxruntimeLlama[] = [];
  const rivals = {
    ...{ ways, rows, notes },
    async destroy() {
      for (const llama of opened) await llama.destroy();
    },
  };
  if (!host.onnxruntime) return rivals;
  if (type === 'f16' && !gpu.features.shaderF16) {
    notes.push('onnxruntime: the whole model in f16 is not run, for want of shader-f16 on this device.');
    return rivals;
  }
  const { llamaModel, openLlama, version } = await host.onnxruntime();
  const { config } = engine;
  const file = llamaModel(config, type, await readWeights(task, type));
  const ourLogits = await engine.logits([...promptIds, ...ours.slice(0, -1)]);
  for (const { name, how, capacity } of cachings) {
    const behind: number[] = [];
    let logits: Float32Array = new Float32Array(0);
    let llama: OnnxruntimeLlama;
    try {
      llama = await openLlama(gpu, { file, config, type, capacity: capacity?.(promptIds.length + ours.length) });
      opened.push(llama);
      await llama.decode(promptIds, ours.length, (row, step) => {
        behind.push(behindBest(row, ours[step]));
        logits = row;
        return ours[step];
      });
    } catch (error) {
      const why = error instanceof Error ? error.message : error;
      notes.push(`FAILED in the whole model (${type}), and is not timed there: ${name}: ${why}`);
      continue;
    }
    const where = `${name} is wrong in the whole model (${type})`;
    try {
      expectOurTokens(behind, tolerances[type].nearTie);
      const error = logitDifference(logits, ourLogits, tolerances[type].logit);
      rows.push(rowOf(`${name}, error`, paramsOf(type), '1e-6', [error * 1e6]));
    } catch (error) {
      await rivals.destroy();
      throw within(where, error);
    }
    ways.push({
      name,
      decode: () => llama.decode(promptIds, ours.length, likeliest),
      judge: (ids) => {
        try {
          return `onnxruntime-web ${version} (jspi), WebGPU execution provider; ${how}; ${describeTokens(ids, ours, behind)}`;
        } catch (error) {
          throw within(where, error);
        }
      },
    });
  }
  return rivals;
}

function within(where: string, error: unknown): Error {
  return new Error(`${where}: ${error instanceof Error ? error.message : error}`, { cause: error });
}

async function readWeights({ host, engine: { config } }: Task, type: LlamaType): Promise<LlamaWeights> {
  const tensors = await openSafetensors(shippedFiles(host), () => {});
  try {
    return await readLlamaWeights(tensors, config, type);
  } finally {
    tensors.close();
  }
}

/** Runs by way and round. @throws {Error} when a way's tokens differ from round to round */
async function runInTurn(ways: readonly Way[], rounds: number): Promise<readonly (readonly Decoded[])[]> {
  const runs = ways.map((): Decoded[] => []);
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < ways.length; i++) {
      const at = (i + round) % ways.length;
      const run = await ways[at].decode();
      if (String(run.ids) !== String((runs[at][0] ?? run).ids)) throw new Error(`${ways[at].name}: tokens of round ${round + 1} differ.`);
      runs[at].push(run);
    }
  }
  return runs;
}

/** Times of each way, then ratios to ours, the first, of the same round. */
function rowsOf(type: LlamaType, ways: readonly Way[], runs: readonly (readonly Decoded[])[]): readonly BenchRow[] {
  const params = paramsOf(type);
  const times = ways.flatMap(({ name }, i) => {
    const row = (suffix: string, unit: string, value: (run: Decoded) => number) => rowOf(name + suffix, params, unit, runs[i].map(value));
    return [
      row('', 'tokens/s', ({ perToken }) => 1000 / perToken),
      row(', per token', 'ms', ({ perToken }) => perToken),
      row(', first token', 'ms', ({ firstToken }) => firstToken),
    ];
  });
  const ratios = ways.slice(1).flatMap(({ name }, i) => {
    const ratio = (of: 'perToken' | 'firstToken') => runs[i + 1].map((run, round) => run[of] / runs[0][round][of]);
    return [
      rowOf(`${name} / ours`, params, 'x', ratio('perToken')),
      rowOf(`${name} / ours, first token`, params, 'x', ratio('firstToken')),
    ];
  });
  return [...times, ...ratios];
}

function paramsOf(type: LlamaType): BenchRow['params'] {
  return { case: 'whole model', kv: type };
}
