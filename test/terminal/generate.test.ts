import { copyFile, mkdir, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openTerminal } from './terminal.ts';

const model = 'demo/model';
const limit = 120_000;

let run: Awaited<ReturnType<typeof openTerminal>>;
let folder: string;
let server: Server;

beforeAll(async () => {
  run = await openTerminal();
  folder = await mkdtemp(join(tmpdir(), 'pagewise-'));
  server = createServer((_, response) => void response.writeHead(404).end()).listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
}, limit);

afterAll(async () => {
  server.close();
  await rm(folder, { recursive: true });
});

/** A copy of the model, without its weights. */
async function copyModel(name: string): Promise<string> {
  const copy = join(folder, name);
  await mkdir(copy);
  for (const file of ['config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json']) {
    await copyFile(join(model, file), join(copy, file));
  }
  return copy;
}

/** Runs what must fail, and gives its only line. */
async function failure(...programArguments: string[]): Promise<string> {
  const { code, output, errors } = await run(programArguments);
  expect(code).toBe(1);
  expect(output).toBe('');
  const lines = errors.trimEnd().split('\n');
  // The adapter is named before the prompt is looked at.
  expect(lines.slice(0, -1).filter((line) => !line.includes('adapter'))).toEqual([]);
  expect(lines.at(-1)).toMatch(/^pagewise: /);
  return lines.at(-1) ?? '';
}

describe('a wrong command line gives one line and exit code 1', { timeout: limit }, () => {
  test.each([
    [['Once', '--temperature', 'NaN'], /--temperature is "NaN", but must be a number of at least 0/],
    [['Once', '--temperature', '-1'], /--temperature is "-1"/],
    [['Once', '--top-p', '0'], /--top-p is "0", but must be a number above 0 and at most 1/],
    [['Once', '--speculate', '16'], /--speculate is "16", but must be an integer from 1 to 15/],
    [['Once', '--max-tokens', 'abc'], /--max-tokens is "abc", but must be an integer of at least 1/],
    [['Once', '--block-size', '12'], /--block-size is "12", but must be a positive multiple of 8/],
    [['Once', '--kv-dtype', 'f8'], /--kv-dtype is "f8", but must be f32 or f16/],
    [['Once', '--sed', '1'], /unknown option '--sed'.*--seed.*--help/],
    [[], /there is no prompt/],
  ])('%j', async (programArguments, expected) => {
    expect(await failure(...programArguments)).toMatch(expected);
  });

  test('--help is no failure', async () => {
    const { code, output, errors } = await run(['--help']);
    expect(code).toBe(0);
    expect(output).toContain('--run-ahead <number>');
    expect(errors).toBe('');
  });
});

describe('a model that cannot be used gives one line and exit code 1', { timeout: limit }, () => {
  test('no such folder', async () => {
    expect(await failure('Once', '--model', join(folder, 'nowhere'))).toMatch(/config\.json.*no such file.*nowhere/);
  });

  test('a URL that answers 404', async () => {
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/model`;
    expect(await failure('Once', '--model', url)).toMatch(/config\.json.*404/);
  });

  test('another architecture is named, with those supported', async () => {
    const copy = await copyModel('other');
    await writeFile(join(copy, 'config.json'), JSON.stringify({ architectures: ['GPT2LMHeadModel'] }));
    expect(await failure('Once', '--model', copy)).toMatch(/GPT2LMHeadModel.*LlamaForCausalLM/);
  });

  test('no weights', async () => {
    expect(await failure('Once', '--model', await copyModel('weightless'))).toMatch(/model\.safetensors/);
  });

  test('truncated weights', async () => {
    const copy = await copyModel('truncated');
    const weights = join(copy, 'model.safetensors');
    await copyFile(join(model, 'model.safetensors'), weights);
    await truncate(weights, 1_000_000);
    expect(await failure('Once', '--model', copy)).toMatch(/model\.safetensors.*truncated/);
  });

  test('a prompt longer than the model', async () => {
    expect(await failure('word '.repeat(1100))).toMatch(/tokens, but the context holds 1024/);
  });
});

describe('a text', { timeout: limit }, () => {
  test('--json prints exactly one object', async () => {
    const [golden] = JSON.parse(await readFile('test/golden/golden.json', 'utf8')).prompts;
    const { code, output, errors } = await run([golden.text, '--temperature', '0', '--max-tokens', '16', '--json']);
    expect(code).toBe(0);
    expect(output.trimEnd().split('\n')).toHaveLength(1);
    const result = JSON.parse(output);
    expect(Object.keys(result)).toEqual(['text', 'promptIds', 'ids', 'adapter', 'stats']);
    expect(result.promptIds).toEqual(golden.ids);
    expect(result.ids).toEqual(golden.greedy_ids.slice(0, 16));
    expect(golden.greedy_text.startsWith(result.text)).toBe(true);
    expect(result.stats).toMatchObject({ promptTokens: golden.ids.length, outputTokens: 16 });
    expect(result.adapter.name).not.toBe('');
    expect(errors).toMatch(/Time to first token/);
  });

  test('--speculate writes the same text, and says how much was guessed', async () => {
    const [golden] = JSON.parse(await readFile('test/golden/golden.json', 'utf8')).prompts;
    const { code, output, errors } = await run([golden.text, '--temperature', '0', '--max-tokens', '16', '--speculate', '4', '--json']);
    expect([code, JSON.parse(output).ids]).toEqual([0, golden.greedy_ids.slice(0, 16)]);
    const { draftedTokens, acceptedTokens } = JSON.parse(output).stats;
    expect(errors).toContain(`${acceptedTokens} of ${draftedTokens} tokens were right`);
  });

  test('--trace writes a file with a track for the host and one for the GPU', async () => {
    const file = join(folder, 'trace.json');
    const { code, output, errors } = await run(['Once', '--temperature', '0', '--max-tokens', '4', '--trace', file]);
    expect([code, errors]).toEqual([0, expect.stringMatching(/Output +4 tokens/)]);
    expect(output).toMatch(/^[^\n].*\n$/s);
    const { traceEvents } = JSON.parse(await readFile(file, 'utf8'));
    const names = (category: string) =>
      new Set(traceEvents.filter(({ cat }: { cat?: string }) => cat === category).map(({ name }: { name: string }) => name));
    expect(names('host')).toEqual(new Set(['prefill', 'decode', 'plan', 'record', 'submit', 'read', 'wait', 'trace']));
    expect(names('gpu')).toEqual(names('launch'));
    expect(names('gpu')).toContain('sample');
  });

  test('--trace says where it cannot write', async () => {
    const { code, errors } = await run(['Once', '--max-tokens', '2', '--trace', join(folder, 'nowhere', 'trace.json')]);
    expect([code, errors.trimEnd().split('\n').at(-1)]).toEqual([
      1,
      expect.stringMatching(/^pagewise: --trace is .* must be a file that can be/),
    ]);
  });

  test('is streamed to standard output, the table goes to standard error', async () => {
    const pieces: string[] = [];
    const { code, output, errors } = await run(
      ['One', 'day,', '--seed', '5', '--max-tokens', '12', '--kv-dtype', 'int8', '--run-ahead', '3'],
      {
        onOutput: (text) => pieces.push(text),
      },
    );
    expect(code).toBe(0);
    expect(pieces.length).toBeGreaterThan(2);
    expect(output).toMatch(/^[^\n].*\n$/s);
    for (const row of ['Adapter', 'Prompt +4 tokens', 'Output +12 tokens', 'Speed +[\\d.]+ tokens/s', 'Run-ahead +3 steps', 'Seed +5']) {
      expect(errors).toMatch(new RegExp(`^${row}`, 'm'));
    }
  });

  test.skipIf(process.platform === 'win32')('ends at an interrupt, with its table and exit code 130', async () => {
    let interrupted = false;
    const { code, output, errors } = await run(['Once upon a time', '--max-tokens', '1000'], {
      onOutput: (text, interrupt) => {
        if (!interrupted && text.length > 10) interrupt();
        interrupted ||= text.length > 10;
      },
    });
    expect(code).toBe(130);
    expect(output.length).toBeLessThan(2000);
    expect(errors).toMatch(/Ended +by an interrupt/);
  });
});
