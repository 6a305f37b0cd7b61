/** What `npm run tune` found, in files. */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Gpu, InvalidArgumentError, type TuningStore, textTunings, tuningKey } from 'pagewise';
import { typedPath } from './folder.ts';

/** Tunings in a folder: a file for each adapter, host and version of Pagewise. */
export function folderTunings(folder: string, onProblem: (problem: string) => void): TuningStore {
  return textTunings(
    {
      async read(name) {
        try {
          return await readFile(join(folder, name), 'utf8');
        } catch (error) {
          if ((error as { readonly code?: unknown }).code === 'ENOENT') return undefined;
          throw error;
        }
      },
      async write(name, text) {
        await mkdir(folder, { recursive: true });
        await writeFile(join(folder, name), text);
      },
    },
    { onProblem },
  );
}

/**
 * The tuning of a file as typed, unchecked: the engine judges it. Without a file what the folder has for this device.
 * @throws {InvalidArgumentError} for a file that cannot be read, or is no JSON.
 */
export async function storedTuning(
  gpu: Gpu,
  file: string | undefined,
  folder: string,
  onProblem: (problem: string) => void,
): Promise<unknown> {
  if (file === undefined) return folderTunings(folder, onProblem).load(tuningKey(gpu));
  try {
    return JSON.parse(await readFile(typedPath(file), 'utf8'));
  } catch (error) {
    throw new InvalidArgumentError('--tuning', file, `a JSON file that can be read (${(error as Error).message})`);
  }
}
