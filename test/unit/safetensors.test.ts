import { describe, expect, it } from 'vitest';
import { filesFromFolder } from '../../demo/terminal/folder.ts';
import { type ByteSource, filesFrom, type ModelFiles } from '../../src/engine/files.ts';
import { expectShape, openSafetensors } from '../../src/engine/safetensors.ts';
import { ModelFileError, UnsupportedModelError } from '../../src/errors.ts';
import { rawFile, safetensorsFile } from './safetensors-file.ts';

const counting = (length: number): Uint8Array<ArrayBuffer> => Uint8Array.from({ length }, (_, index) => index);

const good = {
  'model.embed.weight': { dtype: 'F16', shape: [3, 4], bytes: counting(24) },
  'model.norm.weight': { dtype: 'F32', shape: [4], bytes: counting(16).fill(7) },
  'model.scale': { dtype: 'BF16', shape: [], bytes: counting(2) },
  'model.none': { dtype: 'F32', shape: [0, 4], bytes: counting(0) },
  'model.steps': { dtype: 'I64', shape: [1], bytes: counting(8) },
};

const inMemory = (content: Record<string, Uint8Array<ArrayBuffer> | string>): ModelFiles =>
  filesFrom('memory', async (name) => {
    const file = content[name];
    return typeof file === 'string' ? new Blob([file]) : file;
  });

const one = (file: Uint8Array<ArrayBuffer>): ModelFiles => inMemory({ 'model.safetensors': file });

const openingError = async (files: ModelFiles): Promise<string> => {
  const error = await openSafetensors(files).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(ModelFileError);
  return (error as ModelFileError).message;
};

const entry = (dtype: string, shape: unknown, offsets: unknown): unknown => ({ dtype, shape, data_offsets: offsets });

describe('one file', () => {
  it.each([0, 1, 37])('gives its tensors, with %d spaces behind the header', async (padding) => {
    const index = await openSafetensors(one(safetensorsFile(good, padding)));
    expect(index.names()).toEqual(Object.keys(good));
    expect(index.bytes).toBe(50);
    expect(index.has('__metadata__')).toBe(false);
    const embed = index.tensor('model.embed.weight');
    expect(embed).toMatchObject({ name: 'model.embed.weight', dtype: 'f16', shape: [3, 4], byteLength: 24, file: 'model.safetensors' });
    expect(await embed.read()).toEqual(counting(24));
    expect(await embed.read(8, 16)).toEqual(counting(24).slice(8, 16));
    expect(await embed.read(20)).toEqual(counting(24).slice(20));
    expect(await index.tensor('model.norm.weight').read()).toEqual(new Uint8Array(16).fill(7));
    expect(index.tensor('model.scale')).toMatchObject({ dtype: 'bf16', shape: [], byteLength: 2 });
    expect(index.tensor('model.none').byteLength).toBe(0);
  });

  it('reads the header and what is asked for, no more', async () => {
    const file = safetensorsFile(good);
    const reads: number[] = [];
    const source: ByteSource = {
      name: 'model.safetensors',
      size: file.length,
      async read(start, end) {
        reads.push(end - start);
        return file.slice(start, end);
      },
    };
    const index = await openSafetensors(filesFrom('memory', async () => source));
    await index.tensor('model.embed.weight').read(0, 4);
    const headerLength = file.length - 8 - 50;
    expect(reads).toEqual([8, headerLength, 4]);
  });

  it('reads the model that ships', async () => {
    const index = await openSafetensors(filesFromFolder('demo/model'));
    expect(index.names()).toHaveLength(56);
    const embed = index.tensor('model.embed_tokens.weight');
    expectShape(embed, [4096, 320]);
    expect(await embed.read(0, 640)).toHaveLength(640);
    index.close();
  });

  it('names a missing tensor and those whose names are near', async () => {
    const index = await openSafetensors(one(safetensorsFile(good)));
    expect(() => index.tensor('model.norms.weight')).toThrow(ModelFileError);
    expect(() => index.tensor('model.norms.weight')).toThrow(
      'Model file model.safetensors: has no tensor "model.norms.weight". The nearest names are "model.norm.weight", ',
    );
    const empty = await openSafetensors(one(safetensorsFile({})));
    expect(() => empty.tensor('x')).toThrow('has no tensor "x". It has no tensors at all.');
  });

  it('refuses a dtype only when its tensor is asked for', async () => {
    const index = await openSafetensors(one(safetensorsFile({ ...good, future: { dtype: 'F2_E1', shape: [5], bytes: counting(2) } })));
    expect(() => index.tensor('model.steps')).toThrow(UnsupportedModelError);
    expect(() => index.tensor('model.steps')).toThrow(
      'Dtype I64 of tensor "model.steps" in model.safetensors is not supported. Supported: F32, F16, BF16.',
    );
    expect(() => index.tensor('future')).toThrow('Dtype F2_E1');
  });

  it('checks shapes', async () => {
    const tensor = (await openSafetensors(one(safetensorsFile(good)))).tensor('model.embed.weight');
    expectShape(tensor, [3, 4]);
    const message = 'tensor "model.embed.weight" has shape [3, 4], but config.json asks for [4, 3]. Are both files of the same model?';
    expect(() => expectShape(tensor, [4, 3])).toThrow(message);
    expect(() => expectShape(tensor, [12])).toThrow(ModelFileError);
  });

  it('refuses to read beyond a tensor', async () => {
    const tensor = (await openSafetensors(one(safetensorsFile(good)))).tensor('model.embed.weight');
    await expect(tensor.read(0, 25)).rejects.toThrow('bytes 0 to 25 of tensor "model.embed.weight" were asked for, but it has 24.');
    await expect(tensor.read(8, 4)).rejects.toThrow(ModelFileError);
  });
});

describe('a file that is not what it should be', () => {
  const file = safetensorsFile(good);

  it('says that there is none', async () => {
    expect(await openingError(inMemory({}))).toBe(
      'Model file model.safetensors: memory has neither it nor model.safetensors.index.json. Weights are read from safetensors only; convert others first.',
    );
  });

  it.each([0, 7])('is truncated to %d bytes', async (size) => {
    expect(await openingError(one(file.slice(0, size)))).toContain(`is truncated: ${size} bytes are too few`);
  });

  it('is truncated within the header, or within the data', async () => {
    expect(await openingError(one(file.slice(0, 60)))).toMatch(
      /is truncated: its header ends at byte \d+, but the file has 60\. Get the file again\./,
    );
    expect(await openingError(one(file.slice(0, -1)))).toContain('is truncated: tensor "model.steps" ends at byte');
  });

  it.each([100_000_001n, 2n ** 63n])('has a header of %d bytes', async (length) => {
    expect(await openingError(one(rawFile('{}', counting(8), length)))).toContain(
      `its header would have ${length} bytes, and 100000000 are allowed.`,
    );
  });

  it.each(['not json', '[]', 'null', '{"a": '])('has the header %j', async (header) => {
    expect(await openingError(one(rawFile(header, counting(0))))).toContain('its header is not a JSON object');
  });

  it('has a header that is not UTF-8', async () => {
    const bad = rawFile('{"aaaa": 1}', counting(0));
    bad[11] = 0xff;
    expect(await openingError(one(bad))).toContain('its header is not a JSON object');
  });

  it('is a Git LFS pointer', async () => {
    const pointer = 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n';
    expect(await openingError(inMemory({ 'model.safetensors': pointer }))).toContain(
      'Git LFS pointer, not the weights. Run "git lfs pull"',
    );
  });

  it.each<[string, Record<string, unknown>, number, string]>([
    ['an entry that is no object', { a: 1 }, 0, 'entry of tensor "a" is not an object'],
    ['no dtype', { a: entry(undefined as unknown as string, [1], [0, 4]) }, 4, 'tensor "a" has no dtype'],
    ['a shape that is no list', { a: entry('F32', 4, [0, 16]) }, 16, 'tensor "a" has the shape 4'],
    ['a negative size', { a: entry('F32', [-1], [0, 4]) }, 4, 'tensor "a" has the shape [-1]'],
    ['a fractional offset', { a: entry('F32', [1], [0.5, 4.5]) }, 5, 'tensor "a" has the offsets [0.5,4.5]'],
    ['one offset', { a: entry('F32', [1], [0]) }, 4, 'tensor "a" has the offsets [0]'],
    ['offsets that swap', { a: entry('F32', [1], [4, 0]) }, 4, 'needs 4 bytes, but its offsets 4 to 0 hold -4'],
    [
      "a size that is not the shape's",
      { a: entry('F16', [2, 2], [0, 6]) },
      6,
      'tensor "a" (F16 [2, 2]) needs 8 bytes, but its offsets 0 to 6 hold 6',
    ],
    ['offsets beyond the file', { a: entry('F32', [2], [4, 12]) }, 8, 'tensor "a" ends at byte'],
    ['an overlap', { a: entry('F32', [2], [0, 8]), b: entry('F32', [1], [4, 8]) }, 8, 'tensor "b" overlaps the one before it'],
    ['a hole', { a: entry('F32', [1], [0, 4]), b: entry('F32', [1], [8, 12]) }, 12, 'before tensor "b", belong to no tensor'],
    ['bytes at the end', { a: entry('F32', [1], [0, 4]) }, 5, 'its last ones, belong to no tensor'],
  ])('has %s', async (_, header, dataLength, problem) => {
    expect(await openingError(one(rawFile(JSON.stringify(header), counting(dataLength))))).toContain(problem);
  });

  it('is closed again', async () => {
    let closed = 0;
    const bad = rawFile('nothing', counting(0));
    const source: ByteSource = { name: 'x', size: bad.length, read: async (start, end) => bad.slice(start, end), close: () => closed++ };
    await openingError(filesFrom('memory', async () => source));
    expect(closed).toBe(1);
  });
});

describe('shards', () => {
  const { 'model.embed.weight': embed, 'model.norm.weight': norm } = good;
  const first = safetensorsFile({ embed });
  const second = safetensorsFile({ norm });
  const weightMap = { embed: 'model-00001-of-00002.safetensors', norm: 'model-00002-of-00002.safetensors' };
  const all = {
    'model-00001-of-00002.safetensors': first,
    'model-00002-of-00002.safetensors': second,
    'model.safetensors.index.json': JSON.stringify({ metadata: { total_size: 40 }, weight_map: weightMap }),
  };

  it('are one model', async () => {
    const progress: [number, number][] = [];
    const index = await openSafetensors(inMemory(all), (loaded, total) => progress.push([loaded, total]));
    expect(index.names()).toEqual(['embed', 'norm']);
    expect(await index.tensor('norm').read()).toEqual(norm.bytes);
    expect(index.tensor('norm').file).toBe('model-00002-of-00002.safetensors');
    expect(progress.at(-1)).toEqual([first.length + second.length, first.length + second.length]);
    expect(() => index.tensor('nor')).toThrow(
      'Model file model-00001-of-00002.safetensors, model-00002-of-00002.safetensors: has no tensor "nor"',
    );
  });

  it('are named when missing', async () => {
    const { 'model-00002-of-00002.safetensors': _, ...rest } = all;
    expect(await openingError(inMemory(rest))).toContain('Model file model-00002-of-00002.safetensors: there is no such file in memory');
  });

  it('must hold what the index says', async () => {
    const message = await openingError(inMemory({ ...all, 'model-00002-of-00002.safetensors': safetensorsFile({ other: norm }) }));
    expect(message).toContain(
      'Model file model-00002-of-00002.safetensors: has no tensor "norm", though model.safetensors.index.json says so.',
    );
  });

  it.each(['../secret.safetensors', '/etc/passwd', 'a/b.safetensors', 'model.bin', 3])('may not be called %j', async (shard) => {
    const message = await openingError(inMemory({ 'model.safetensors.index.json': JSON.stringify({ weight_map: { embed: shard } }) }));
    expect(message).toContain(`tensor "embed" is said to be in ${JSON.stringify(shard)}, which is no shard's file name.`);
  });

  it.each(['{', '[]', '{}', '{"weight_map": []}'])('need a proper index, not %j', async (index) => {
    expect(await openingError(inMemory({ 'model.safetensors.index.json': index }))).toMatch(
      /index\.json: (is not JSON|"weight_map" is missing)/,
    );
  });
});
