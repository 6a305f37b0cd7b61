/**
 * Model files in a local folder, for Deno and Node.
 */
import { type FileHandle, open } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import process from 'node:process';
import { ModelFileError } from 'pagewise';
import { type ByteSource, filesFrom, filesFromUrl, type ModelFiles } from 'pagewise/engine';

/**
 * Model files in `folder`. They are read by slices where they lie, never whole.
 *
 * @throws {ModelFileError} from `open`, when there is no such file or it cannot be opened; the message names file and folder.
 */
export function filesFromFolder(folder: string): ModelFiles {
  return filesFrom(`folder ${folder}`, async (name) => {
    let handle: FileHandle;
    try {
      handle = await open(join(folder, name));
    } catch (error) {
      const code = (error as { readonly code?: unknown }).code;
      if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
      throw new ModelFileError(name, `cannot be opened in folder ${folder} (${String(code ?? error)}). Check its permissions.`, {
        cause: error,
      });
    }
    const status = await handle.stat();
    if (!status.isFile()) {
      await handle.close();
      throw new ModelFileError(name, `is not a file in folder ${folder}. Give the folder of the model files themselves.`);
    }
    return fileSource(name, handle, status.size);
  });
}

function fileSource(name: string, handle: FileHandle, size: number): ByteSource {
  return {
    name,
    size,
    async read(start, end) {
      const bytes = new Uint8Array(end - start);
      for (let done = 0; done < bytes.length; ) {
        const { bytesRead } = await handle.read(bytes, done, bytes.length - done, start + done);
        if (bytesRead === 0) throw new ModelFileError(name, `ends before byte ${end}: it is truncated, or changed while it was read.`);
        done += bytesRead;
      }
      return bytes;
    },
    close() {
      void handle.close();
    },
  };
}

/** The files of `--model`: a folder as typed, or a URL; undefined: the folder of the model that comes with Pagewise. */
export function modelFiles(model: string | undefined, defaultModel: string, signal: AbortSignal): ModelFiles {
  if (model === undefined) return filesFromFolder(defaultModel);
  if (/^https?:\/\//i.test(model)) return filesFromUrl(model, { signal });
  return filesFromFolder(typedPath(model));
}

/** A path counts from where the person typed the command: npm itself runs scripts in the package's folder. */
export function typedPath(path: string): string {
  return resolve(process.env.INIT_CWD || process.cwd(), path);
}
