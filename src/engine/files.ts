/**
 * Where model files come from: a URL, a folder, a `<input type=file>`, an archive in memory.
 *
 * Everything above this file sees named byte sources that are read by slices, so that a model larger than memory
 * (or than a browser's longest array) loads as well. Nothing here knows what the bytes mean.
 */
import { InvalidArgumentError, ModelFileError } from '../errors.ts';

/** Bytes that can be read by slices. */
export interface ByteSource {
  /** The file's name, as error messages show it. */
  readonly name: string;
  /** Length in bytes. */
  readonly size: number;
  /**
   * Bytes `start` (included) to `end` (excluded): exactly `end - start` of them, in memory that the caller owns.
   *
   * @throws {ModelFileError} when the file ends early or cannot be read.
   */
  read(start: number, end: number): Promise<Uint8Array<ArrayBuffer>>;
  /** Lets go of the file. No reads afterwards. */
  close?(): void;
}

/** How far a download has come, in bytes. `total` is 0 as long as it is unknown. */
export type OnBytes = (loaded: number, total: number) => void;

/** The files of one model. */
export interface ModelFiles {
  /** The place, as error messages show it: a URL, or a folder's path. */
  readonly description: string;
  /**
   * Opens a file. A URL is downloaded before this resolves; `onBytes` follows it, and is called at least once.
   *
   * @throws {ModelFileError} when it cannot be had; its `missing` is true when there is no such file.
   */
  open(name: string, onBytes?: OnBytes): Promise<ByteSource>;
}

/** What a reader given to `filesFrom` may answer with; `undefined` says that there is no such file. */
export type FileContent = ByteSource | Blob | Uint8Array<ArrayBuffer>;

/**
 * Model files from anywhere: `read` gives the content for a name. In a browser, the files a person picked:
 * `filesFrom('your folder', async (name) => picked.find((file) => file.name === name))`.
 *
 * @param description the place, for error messages.
 */
export function filesFrom(description: string, read: (name: string) => Promise<FileContent | undefined>): ModelFiles {
  return {
    description,
    async open(name, onBytes) {
      const content = await read(name);
      if (!content) {
        throw new ModelFileError(name, `there is no such file in ${description}. Check the folder, or copy the file there.`, {
          missing: true,
        });
      }
      const source = toByteSource(name, content);
      onBytes?.(source.size, source.size);
      return source;
    },
  };
}

/** How to fetch. */
export interface FilesFromUrlOptions {
  /** Default: the host's `fetch`. */
  readonly fetch?: typeof fetch;
  /** Ends the downloads; `open` then rejects with the signal's reason. */
  readonly signal?: AbortSignal;
}

/**
 * Model files under a URL: `base` is the folder, with or without the slash at its end; its query, if any, goes with every file.
 * A relative one counts from the page. Each file is streamed into a Blob, which a browser may keep on disk, and read by slices.
 *
 * An HTML page where a model file should be counts as missing: development servers answer so for any unknown path.
 *
 * @throws {InvalidArgumentError} when `base` is no URL.
 */
export function filesFromUrl(base: string | URL, options: FilesFromUrlOptions = {}): ModelFiles {
  const root = folderUrl(base);
  const get = options.fetch ?? globalThis.fetch.bind(globalThis);
  return {
    description: root.href,
    async open(name, onBytes) {
      const url = new URL(encodeURIComponent(name), root);
      url.search = root.search;
      let loaded = 0;
      try {
        const response = await get(url, { signal: options.signal ?? null });
        await checkResponse(response, name, url);
        const total = Number(response.headers.get('content-length') ?? 0);
        onBytes?.(0, total);
        const count = new TransformStream<Uint8Array, Uint8Array>({
          transform(chunk, controller) {
            loaded += chunk.byteLength;
            onBytes?.(loaded, total === 0 ? 0 : Math.max(loaded, total)); // a compressed transfer gives more than it announced
            controller.enqueue(chunk);
          },
        });
        const blob = await new Response(response.body?.pipeThrough(count) ?? null).blob();
        onBytes?.(blob.size, blob.size);
        return blobSource(name, blob);
      } catch (error) {
        if (error instanceof ModelFileError) throw error;
        options.signal?.throwIfAborted();
        const problem =
          loaded > 0
            ? `the transfer from ${url.href} broke off after ${loaded} bytes. Check the network and try again.`
            : `could not be fetched from ${url.href}. Check the network, and that the server allows this origin (CORS).`;
        throw new ModelFileError(name, problem, { cause: error });
      }
    },
  };
}

/** Opens a file, or gives undefined when there is none. Throws as `ModelFiles.open` in every other case. */
export async function openIfPresent(files: ModelFiles, name: string, onBytes?: OnBytes): Promise<ByteSource | undefined> {
  try {
    return await files.open(name, onBytes);
  } catch (error) {
    if (error instanceof ModelFileError && error.missing) return undefined;
    throw error;
  }
}

/**
 * Reads and parses a JSON file; the value's form is not checked.
 *
 * @throws {ModelFileError} when the file is missing or is not JSON.
 */
export async function readJson(files: ModelFiles, name: string): Promise<unknown> {
  return parseJson(await files.open(name), files.description);
}

/** As `readJson`, but gives undefined when there is no such file. */
export async function readJsonIfPresent(files: ModelFiles, name: string): Promise<unknown> {
  const source = await openIfPresent(files, name);
  return source && (await parseJson(source, files.description));
}

async function parseJson(source: ByteSource, place: string): Promise<unknown> {
  try {
    return JSON.parse(new TextDecoder().decode(await source.read(0, source.size)));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new ModelFileError(source.name, `is not JSON (${error.message}). Get it again into ${place}.`, { cause: error });
  } finally {
    source.close?.();
  }
}

function folderUrl(base: string | URL): URL {
  let url: URL;
  try {
    url = new URL(base, globalThis.location?.href);
  } catch {
    throw new InvalidArgumentError('base', String(base), 'the URL of a folder, such as "https://example.org/model/"');
  }
  if (!url.pathname.endsWith('/')) url.pathname += '/';
  return url;
}

async function checkResponse(response: Response, name: string, url: URL): Promise<void> {
  const html = response.headers.get('content-type')?.startsWith('text/html') ?? false;
  if (response.ok && !html) return;
  await response.body?.cancel();
  const missing = response.ok || response.status === 404 || response.status === 410;
  const remedy = missing
    ? 'Check that the URL is the folder of the model files themselves (on huggingface.co it ends in /resolve/main).'
    : 'Check that the server lets you read it, or try again later.';
  const answer = response.ok ? 'an HTML page instead of the file' : `${response.status} ${response.statusText}`.trim();
  throw new ModelFileError(name, `the server answered ${answer} for ${url.href}. ${remedy}`, { missing });
}

function toByteSource(name: string, content: FileContent): ByteSource {
  if (content instanceof Blob) return blobSource(name, content);
  if (content instanceof Uint8Array) return arraySource(name, content);
  return content;
}

function blobSource(name: string, blob: Blob): ByteSource {
  return {
    name,
    size: blob.size,
    async read(start, end) {
      checkRange(name, start, end, blob.size);
      try {
        return new Uint8Array(await blob.slice(start, end).arrayBuffer());
      } catch (error) {
        throw new ModelFileError(name, 'can no longer be read. Has it changed on disk? Load the model again.', { cause: error });
      }
    },
  };
}

function arraySource(name: string, bytes: Uint8Array<ArrayBuffer>): ByteSource {
  return {
    name,
    size: bytes.byteLength,
    async read(start, end) {
      checkRange(name, start, end, bytes.byteLength);
      return bytes.slice(start, end);
    },
  };
}

/** A slice must lie within the file. */
function checkRange(name: string, start: number, end: number, size: number): void {
  if (start >= 0 && start <= end && end <= size) return;
  throw new ModelFileError(name, `bytes ${start} to ${end} were asked for, but it has ${size}. It is truncated: get it again.`);
}
