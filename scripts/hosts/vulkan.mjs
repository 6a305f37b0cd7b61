import { execFile } from 'node:child_process';
import { open, readdir, readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, dirname, isAbsolute, join, resolve } from 'node:path';
import { promisify } from 'node:util';

const execute = promisify(execFile);

const libraryFolders = [
  `/usr/lib/${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu`,
  '/usr/lib64',
  '/usr/lib',
  '/lib64',
  '/lib',
  '/usr/local/lib',
];

const driverFolders = ['/etc', '/usr/share', '/usr/local/share', join(homedir(), '.local/share')].map((folder) =>
  join(folder, 'vulkan/icd.d'),
);

/** Where libraries may lie: LD_LIBRARY_PATH, what ldconfig lists, and the usual folders. @returns {Promise<(name: string) => Promise<string | undefined>>} */
export async function libraryFinder() {
  /** @type {Map<string, string[]>} */
  const listed = new Map();
  for (const program of ['/sbin/ldconfig', '/usr/sbin/ldconfig', 'ldconfig']) {
    const { stdout } = await execute(program, ['-p']).catch(() => ({ stdout: '' }));
    for (const [, name, path] of stdout.matchAll(/^\s*(\S+) \(.*\) => (.+)$/gm)) listed.set(name, [...(listed.get(name) ?? []), path]);
    if (stdout) break;
  }
  const folders = [...(process.env.LD_LIBRARY_PATH ?? '').split(':').filter(Boolean), ...libraryFolders];
  return async (name) => {
    for (const path of [...(listed.get(name) ?? []), ...folders.map((folder) => join(folder, name))]) {
      if (await isLibrary(path)) return path;
    }
    return undefined;
  };
}

/** The driver files that the system's Vulkan loader would read. @returns {Promise<string[]>} */
export async function systemDriverFiles() {
  const lists = await Promise.all(
    driverFolders.map(async (folder) => {
      const names = await readdir(folder).catch(() => []);
      return names.filter((name) => name.endsWith('.json')).map((name) => join(folder, name));
    }),
  );
  return lists.flat();
}

/** Whether a driver file names a library that is there and fits this processor. @param {string} file @param {(name: string) => Promise<string | undefined>} findLibrary */
export async function driverExists(file, findLibrary) {
  const library = await readFile(file, 'utf8')
    .then(
      (text) => JSON.parse(text)?.ICD?.library_path,
      () => undefined,
    )
    .catch(() => undefined);
  if (typeof library !== 'string') return false;
  if (isAbsolute(library)) return isLibrary(library);
  if (library.includes('/')) return isLibrary(resolve(dirname(file), library));
  return (await findLibrary(basename(library))) !== undefined;
}

/** Whether a file is an ELF library for this processor. @param {string} path */
export async function isLibrary(path) {
  const machine = { x64: 62, arm64: 183 }[/** @type {'x64' | 'arm64'} */ (process.arch)];
  const file = await open(path).catch(() => undefined);
  if (!file) return false;
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(20), 0, 20, 0);
    return bytesRead === 20 && buffer.toString('latin1', 0, 4) === '\x7fELF' && buffer.readUInt16LE(18) === machine;
  } catch {
    return false;
  } finally {
    await file.close();
  }
}
