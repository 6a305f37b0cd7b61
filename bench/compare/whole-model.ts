/** The shipped model, decoded greedily by the engine and by onnxruntime-web on one device: the same prompt, the same tokens, in turn. */
import type { Gpu } from 'pagewise';
import { Engine } from 'pagewise/engine';
import { openSafetensors } from '../../src/engine/safetensors.ts';
import { shippedFiles } from '../generate/models.ts';
import { type BenchHost, type BenchOptions, type BenchRow, rowOf } from '../report.ts';
import { type LlamaType, llamaModel } from './llama-graph.ts';
import { readLlamaWeights } from './llama-weights.ts';
import type { OnnxruntimeLlama } from './onnxruntime-llama.ts';
import { behindBest, describeTokens, expectGolden, expectOurTokens, type Golden, likeliest, logitDifference } from './tokens.ts';

/** A generation, in milliseconds. */
export interface Decoded {
  readonly ids: readonly number[];
  /** From the request to the first token on the host. */
  readonly firstToken: number;
  /** From the first token to the last, for each after the first. */
  readonly perToken: number;
}

/** A way to decode the prompt. */
interface Way {
  readonly name: string;
  readonly decode: () => Promise<Decoded>;
}

/** The types that onnxruntime has the model in: what `--filter` chooses from. */
export const wholeModelCases = (['f16', 'f32'] as const).map((type) => ({ type, name: `whole model, ${type}` }));

/** How far logits may be apart for tokens to be a near tie: what rounding explains. A wrong graph is off by several. */
const nearTies: Readonly<Record<LlamaType, number>> = { f32: 2e-3, f16: 0.25 };

/** onnxruntime's ways to keep keys and values. */
const rivals: readonly { readonly name: string; readonly how: string; readonly capacity?: (tokens: number) => number }[] = [
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
  const rounds = options.rounds ?? (options.quick ? 2 : software ? 3 : 9);
  const maxTokens = options.quick ? 6 : software ? 24 : 128;
  const golden: Golden = JSON.parse(new TextDecoder().decode(await host.readFile('test/golden/golden.json'))).prompts[0];
  const engine = await Engine.load(gpu, shippedFiles(host));
  try {
    const decodeOurs = async (): Promise<Decoded> => {
      const { ids, stats } = await engine.generate(golden.ids, { temperature: 0, maxTokens }).result;
      return { ids, firstToken: stats.timeToFirstToken, perToken: 1000 / stats.tokensPerSecond };
    };
    const { ids } = await decodeOurs();
    expectGolden(ids, golden);
    const notes = [
      `Whole model: the shipped one, greedy, batch 1, ${golden.ids.length} tokens of prompt and ${ids.length} more; in turn, medians of ${rounds} rounds, everything compiled before. KV is the type that onnxruntime has the model in. Ours runs with its default options in both: weights in f16, arithmetic and KV in f32.`,
      'First token: from the request until it is on the host. Per token: of those after the first; tokens/s is its inverse.',
    ];
    const rows: BenchRow[] = [];
    for (const type of types) {
      const ways: Way[] = [{ name: 'ours', decode: decodeOurs }];
      const opened = await openRivals(type, gpu, host, engine, golden.ids, ids);
      try {
        notes.push(...opened.notes);
        if (opened.ways.length === 0 && type === 'f16') continue;
        const runs = await inTurn([...ways, ...opened.ways], rounds);
        rows.push(...rowsOf(type, [...ways, ...opened.ways], runs), ...opened.rows);
      } finally {
        await opened.destroy();
      }
      host.print(`whole model, ${type}: done`);
    }
    return { rows, notes };
  } finally {
    engine.destroy();
  }
}

/** What onnxruntime can do here, checked against our tokens and logits; nothing where it cannot run. */
async function openRivals(
  type: LlamaType,
  gpu: Gpu,
  host: BenchHost,
  engine: Engine,
  promptIds: readonly number[],
  ours: readonly number[],
) {
  const ways: Way[] = [];
  const rows: BenchRow[] = [];
  const notes: string[] = [];
  const opened: OnnxruntimeLlama[] = [];
  const destroy = async () => {
    for (const llama of opened) await llama.destroy();
  };
  if (!host.onnxruntime) return { ways, rows, notes, destroy };
  if (type === 'f16' && !gpu.features.shaderF16) {
    notes.push('onnxruntime: the whole model in f16 is not run, for want of shader-f16 on this device.');
    return { ways, rows, notes, destroy };
  }
  const { openOnnxruntimeLlama, version } = await host.onnxruntime();
  const file = await modelFile(host, engine, type);
  const logits = await engine.logits([...promptIds, ...ours.slice(0, -1)]);
  try {
    for (const { name, how, capacity } of rivals) {
      const where = `${name} (whole model, ${type})`;
      const llama = await openOnnxruntimeLlama(gpu, file, engine.config, type, capacity?.(promptIds.length + ours.length));
      opened.push(llama);
      const behind: number[] = [];
      let last: Float32Array = new Float32Array(0);
      await llama.decode(promptIds, ours.length, (row, step) => {
        behind.push(behindBest(row, ours[step]));
        last = row;
        return ours[step];
      });
      expectOurTokens(behind, nearTies[type], where);
      const error = logitDifference(last, logits, nearTies[type], where);
      const decode = () => llama.decode(promptIds, ours.length, likeliest);
      const tokens = describeTokens((await decode()).ids, ours, behind, where);
      notes.push(`${where}: onnxruntime-web ${version} (jspi), WebGPU execution provider; ${how}; ${tokens}.`);
      rows.push(rowOf(`${name}, error`, paramsOf(type), '1e-6', [error * 1e6]));
      ways.push({ name, decode });
    }
  } catch (error) {
    await destroy();
    throw error;
  }
  return { ways, rows, notes, destroy };
}

async function modelFile(host: BenchHost, { config }: Engine, type: LlamaType): Promise<Uint8Array> {
  const tensors = await openSafetensors(shippedFiles(host), () => {});
  try {
    return llamaModel(config, type, await readLlamaWeights(tensors, config, type));
  } finally {
    tensors.close();
  }
}

/** Runs by way and round. @throws {Error} when a way's tokens differ from round to round */
async function inTurn(ways: readonly Way[], rounds: number): Promise<readonly (readonly Decoded[])[]> {
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
  const times = ways.flatMap(({ name }, i) => [
    rowOf(
      name,
      params,
      'tokens/s',
      runs[i].map(({ perToken }) => 1000 / perToken),
    ),
    rowOf(
      `${name}, per token`,
      params,
      'ms',
      runs[i].map(({ perToken }) => perToken),
    ),
    rowOf(
      `${name}, first token`,
      params,
      'ms',
      runs[i].map(({ firstToken }) => firstToken),
    ),
  ]);
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
