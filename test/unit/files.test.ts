import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { filesFromFolder } from '../../demo/terminal/folder.ts';
import { filesFrom, filesFromUrl, openIfPresent, readJson, readJsonIfPresent } from '../../src/engine/files.ts';
import { InvalidArgumentError, ModelFileError } from '../../src/errors.ts';

const bytes = Uint8Array.from({ length: 300 }, (_, index) => index % 251);

/** A server in a function: paths to responses. */
function server(routes: Record<string, () => Response>): typeof fetch {
  return async (input) => {
    const url = new URL(input instanceof Request ? input.url : input);
    return routes[url.pathname + url.search]?.() ?? new Response('no', { status: 404, statusText: 'Not Found' });
  };
}

function chunked(...chunks: Uint8Array<ArrayBuffer>[]): ReadableStream<Uint8Array<ArrayBuffer>> {
  return new ReadableStream({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(chunk);
      controller.close();
    },
  });
}

const failure = async (promise: Promise<unknown>): Promise<ModelFileError> => {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(ModelFileError);
  return error as ModelFileError;
};

describe('filesFromUrl', () => {
  it('reads slices of a streamed file and reports its progress', async () => {
    const body = () => new Response(chunked(bytes.slice(0, 100), bytes.slice(100)), { headers: { 'content-length': '300' } });
    const files = filesFromUrl('https://host/model', { fetch: server({ '/model/a.bin': body }) });
    const progress: [number, number][] = [];
    const source = await files.open('a.bin', (loaded, total) => progress.push([loaded, total]));
    expect(source).toMatchObject({ name: 'a.bin', size: 300 });
    expect(await source.read(0, 300)).toEqual(bytes);
    expect(await source.read(90, 110)).toEqual(bytes.slice(90, 110));
    expect(await source.read(7, 7)).toHaveLength(0);
    expect(progress).toEqual([
      [0, 300],
      [100, 300],
      [300, 300],
      [300, 300],
    ]);
  });

  it('reports a total of 0 while the server has not said the length, and never less than what came', async () => {
    const files = filesFromUrl('https://host/', {
      fetch: server({
        '/unknown': () => new Response(chunked(bytes)),
        '/compressed': () => new Response(chunked(bytes), { headers: { 'content-length': '50' } }),
      }),
    });
    const totals: number[] = [];
    await files.open('unknown', (_, total) => totals.push(total));
    expect(totals).toEqual([0, 0, 300]);
    totals.length = 0;
    await files.open('compressed', (_, total) => totals.push(total));
    expect(totals).toEqual([50, 300, 300]);
  });

  it('keeps the query of the base and takes names literally', async () => {
    const asked: string[] = [];
    const fetch = async (input: string | URL | Request) => {
      asked.push(String(input));
      return new Response('x');
    };
    await filesFromUrl(new URL('https://host/m?key=1'), { fetch }).open('a b.json');
    await filesFromUrl('https://host/m/', { fetch }).open('../x');
    expect(asked).toEqual(['https://host/m/a%20b.json?key=1', 'https://host/m/..%2Fx']);
  });

  it('says that a file is missing on 404 and on a fallback page', async () => {
    const page = () => new Response('<!doctype html>', { headers: { 'content-type': 'text/html; charset=utf-8' } });
    const files = filesFromUrl('https://host/', { fetch: server({ '/config.json': page }) });
    const html = await failure(files.open('config.json'));
    expect(html.missing).toBe(true);
    expect(html.message).toBe(
      'Model file config.json: the server answered an HTML page instead of the file for https://host/config.json. ' +
        'Check that the URL is the folder of the model files themselves (on huggingface.co it ends in /resolve/main).',
    );
    const notFound = await failure(files.open('model.safetensors'));
    expect(notFound).toMatchObject({ missing: true, file: 'model.safetensors' });
    expect(notFound.message).toContain('404 Not Found for https://host/model.safetensors');
    expect(await openIfPresent(files, 'model.safetensors')).toBeUndefined();
    expect(await readJsonIfPresent(files, 'config.json')).toBeUndefined();
  });

  it('tells a refusal and a broken network from a missing file', async () => {
    const refused = filesFromUrl('https://host/', {
      fetch: server({ '/a': () => new Response('', { status: 403, statusText: 'Forbidden' }) }),
    });
    expect(await failure(openIfPresent(refused, 'a'))).toMatchObject({ missing: false, message: expect.stringContaining('403 Forbidden') });

    const offline = filesFromUrl('https://host/', { fetch: () => Promise.reject(new TypeError('fetch failed')) });
    const error = await failure(openIfPresent(offline, 'a'));
    expect(error).toMatchObject({
      missing: false,
      message: expect.stringContaining('could not be fetched from https://host/a. Check the network'),
    });
    expect(error.cause).toBeInstanceOf(TypeError);

    const broken = new ReadableStream({
      start: (controller) => controller.enqueue(bytes),
      // Called once the bytes have been taken; an error drops what is still queued.
      async pull(controller) {
        await new Promise((resolve) => setTimeout(resolve, 5));
        controller.error(new TypeError('reset'));
      },
    });
    const cut = filesFromUrl('https://host/', { fetch: server({ '/a': () => new Response(broken) }) });
    expect((await failure(cut.open('a'))).message).toContain('the transfer from https://host/a broke off after 300 bytes');
  });

  it('rejects with the reason of an aborted signal', async () => {
    const controller = new AbortController();
    const fetch: typeof globalThis.fetch = (_, init) =>
      new Promise((_resolve, reject) => {
        init?.signal?.addEventListener('abort', () => reject(init.signal?.reason));
      });
    const opening = filesFromUrl('https://host/', { fetch, signal: controller.signal }).open('a');
    controller.abort();
    await expect(opening).rejects.toMatchObject({ name: 'AbortError' });
  });

  it('refuses a base that is no URL', () => {
    expect(() => filesFromUrl('http://')).toThrow(InvalidArgumentError);
  });
});

describe('filesFrom', () => {
  const files = filesFrom(
    'memory',
    async (name) => ({ 'a.bin': bytes, 'b.bin': new Blob([bytes]), 'bad.json': new Blob(['{"a": ']) })[name],
  );

  it('takes arrays and blobs', async () => {
    for (const name of ['a.bin', 'b.bin']) {
      const source = await files.open(name, (loaded, total) => expect([loaded, total]).toEqual([300, 300]));
      expect(await source.read(10, 20)).toEqual(bytes.slice(10, 20));
    }
  });

  it('names what is missing and where', async () => {
    const error = await failure(files.open('c.bin'));
    expect(error).toMatchObject({
      missing: true,
      message: 'Model file c.bin: there is no such file in memory. Check the folder, or copy the file there.',
    });
  });

  it('refuses a slice beyond the end', async () => {
    for (const name of ['a.bin', 'b.bin']) {
      const source = await files.open(name);
      expect((await failure(source.read(290, 301))).message).toContain('bytes 290 to 301 were asked for, but it has 300. It is truncated');
    }
  });

  it('says when a picked file can no longer be read', async () => {
    const gone = { arrayBuffer: () => Promise.reject(new DOMException('changed', 'NotReadableError')) };
    const source = await filesFrom('picked', async () => Object.assign(new Blob([bytes]), { slice: () => gone as unknown as Blob })).open(
      'a',
    );
    expect((await failure(source.read(0, 1))).message).toBe(
      'Model file a: can no longer be read. Has it changed on disk? Load the model again.',
    );
  });

  it('says when a file is not JSON', async () => {
    expect((await failure(readJson(files, 'bad.json'))).message).toMatch(
      /^Model file bad.json: is not JSON \(.+\)\. Get it again into memory\.$/,
    );
  });
});

describe('filesFromFolder', () => {
  let folder = '';
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'pagewise-'));
    await writeFile(join(folder, 'a.bin'), bytes);
    await writeFile(join(folder, 'config.json'), '{"a": [1]}');
  });
  afterAll(() => rm(folder, { recursive: true }));

  it('reads slices in place', async () => {
    const source = await filesFromFolder(folder).open('a.bin');
    const slices = await Promise.all([source.read(200, 300), source.read(0, 100), source.read(100, 200)]);
    expect(slices).toEqual([bytes.slice(200, 300), bytes.slice(0, 100), bytes.slice(100, 200)]);
    expect((await failure(source.read(0, 301))).message).toContain('ends before byte 301: it is truncated');
    source.close?.();
    expect(await readJson(filesFromFolder(folder), 'config.json')).toEqual({ a: [1] });
  });

  it('names the file and the folder when either is missing', async () => {
    const noFile = await failure(filesFromFolder(folder).open('b.bin'));
    expect(noFile).toMatchObject({ missing: true, message: expect.stringContaining(`b.bin: there is no such file in folder ${folder}`) });
    const noFolder = await failure(filesFromFolder(join(folder, 'nowhere')).open('config.json'));
    expect(noFolder).toMatchObject({ missing: true, message: expect.stringContaining('nowhere') });
  });

  it('says when the system refuses to open a file', async () => {
    const error = await failure(filesFromFolder(folder).open('a\0b'));
    expect(error).toMatchObject({
      missing: false,
      message: expect.stringContaining(`cannot be opened in folder ${folder} (ERR_INVALID_ARG_VALUE)`),
    });
  });

  it('does not take a folder for a file', async () => {
    expect(await failure(filesFromFolder(tmpdir()).open(folder.slice(tmpdir().length + 1)))).toMatchObject({ missing: false });
  });
});
