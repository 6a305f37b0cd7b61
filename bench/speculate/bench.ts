import type { Gpu } from 'pagewise';
import { Engine, type GenerateOptions } from 'pagewise/engine';
import { shippedFiles } from '../generate/models.ts';
import { type BenchHost, type BenchOptions, type BenchRow, rowOf } from '../report.ts';

/** One that repeats itself, and one that does not: greedy continuations of the shipped model. */
const texts: Readonly<Record<string, string>> = {
  repeating: 'The king said, "Yes." The queen said, "No." '.repeat(5),
  story: 'Once upon a time, there was a little girl named Lily.',
};

interface Way {
  readonly name: string;
  readonly options: GenerateOptions;
}

/** Tokens per second with prompt lookup and without, at the depth that the engine chose and at 1, which guesses need. */
export async function benchSpeculate(gpu: Gpu, host: BenchHost, options: BenchOptions) {
  const rounds = options.rounds ?? (options.quick ? 1 : 7);
  const maxTokens = options.quick ? 8 : 256;
  const engine = await Engine.load(gpu, shippedFiles(host), { prefixCaching: false });
  const ways: readonly Way[] = [
    { name: 'ahead', options: {} },
    { name: 'depth 1', options: { runAhead: 1 } },
    ...(options.quick ? [4] : [2, 4, 8, 15]).map((numTokens) => ({ name: `guess ${numTokens}`, options: { speculate: { numTokens } } })),
  ];
  const rows: BenchRow[] = [];
  for (const [text, prompt] of Object.entries(texts)) rows.push(...(await compare(engine, text, prompt, ways, rounds, maxTokens)));
  const { runAhead } = engine;
  engine.destroy();
  return {
    rows,
    notes: [
      `Greedy, ${maxTokens} tokens, batch 1, the shipped model; medians of ${rounds} rounds, all ways in turn. Ahead: up to ${runAhead} steps in flight, as the engine chose.`,
      'Guesses (prompt lookup) wait for each step, as depth 1 does: what they win is against that, and against running ahead where waiting costs little.',
      'All ways wrote the same tokens, unless a row of differences says otherwise: a near tie may fall the other way where a step has more rows.',
    ],
  };
}

async function compare(
  engine: Engine,
  text: string,
  prompt: string,
  ways: readonly Way[],
  rounds: number,
  maxTokens: number,
): Promise<BenchRow[]> {
  const speeds = new Map<string, number[]>(ways.map(({ name }) => [name, []]));
  const perStep = new Map<string, number>();
  const right = new Map<string, number>();
  const written = new Map<string, string>();
  for (let round = -1; round < rounds; round++) {
    for (const { name, options } of round % 2 === 0 ? ways : ways.toReversed()) {
      const before = engine.stats().steps;
      const { ids, stats } = await engine.generate(prompt, { temperature: 0, maxTokens, ignoreEos: true, ...options }).result;
      if (round < 0) continue;
      speeds.get(name)?.push(stats.tokensPerSecond);
      perStep.set(name, ids.length / (engine.stats().steps - before));
      written.set(name, String(ids));
      if (stats.draftedTokens) right.set(name, (100 * (stats.acceptedTokens ?? 0)) / stats.draftedTokens);
    }
  }
  const different = [...written].filter(([, ids]) => ids !== written.get('depth 1'));
  return [
    ...ways.flatMap(({ name }) => {
      const params = { text, way: name };
      const rate = right.get(name);
      return [
        rowOf('tokens', params, 'tokens/s', speeds.get(name) ?? []),
        rowOf('tokens a step', params, '', [perStep.get(name) ?? 0]),
        ...(rate === undefined ? [] : [rowOf('right guesses', params, '%', [rate])]),
      ];
    }),
    ...different.map(([name]) => rowOf('different tokens', { text, way: name }, 'x', [1])),
  ];
}
