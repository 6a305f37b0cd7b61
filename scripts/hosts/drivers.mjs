import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { npmChromium, unpackSwiftShader } from './archives.mjs';
import { playwrightChromium, systemChromiumFolders } from './chromium.mjs';
import { denoFindsAdapter } from './deno.mjs';
import { driverExists, isLibrary, libraryFinder, systemDriverFiles } from './vulkan.mjs';

/**
 * A way for Deno and Dawn to reach a GPU, or a processor that plays one.
 *
 * @typedef {object} Driver
 * @property {Source} source
 * @property {string} description where it was found, to print
 * @property {string} backend the graphics API
 * @property {Record<string, string>} env what a child process needs in its environment to use it
 *
 * @typedef {'system' | 'chromium' | 'playwright' | 'npm'} Source
 */

const loaderName = 'libvulkan.so.1';

/** The places to look on Linux, best first. */
export const driverSources = /** @type {const} */ (['system', 'chromium', 'playwright', 'npm']);

/**
 * Finds a driver. On Linux: the system's Vulkan (or what VK_DRIVER_FILES or VK_ICD_FILENAMES name), the SwiftShader inside an
 * installed Chromium, inside Playwright's, and the one from npm, which is unpacked once. macOS and Windows bring theirs along.
 *
 * @param {object} [options]
 * @param {string} [options.only] look in this place only; default the environment's PAGEWISE_DRIVER
 * @param {(env: Record<string, string>) => Promise<boolean>} [options.works] whether the host finds an adapter with a driver of the
 *   system's, whose files may well lie there without a GPU; default: asks Deno
 * @returns {Promise<Driver>}
 */
export async function findDriver({ only = process.env.PAGEWISE_DRIVER || undefined, works = denoFindsAdapter } = {}) {
  if (process.platform === 'darwin') return { source: 'system', description: 'macOS', backend: 'Metal', env: {} };
  if (process.platform === 'win32') return { source: 'system', description: 'Windows', backend: 'Direct3D 12', env: {} };
  const sources = driverSources.filter((source) => source === (only ?? source));
  if (sources.length === 0) throw new Error(`There is no driver source "${only}". There are: ${driverSources.join(', ')}.`);
  const refusals = [];
  for (const source of sources) {
    const found = await finders[source](works);
    if (typeof found !== 'string') return { source, ...found, backend: 'Vulkan', env: { ...commonEnvironment(), ...found.env } };
    refusals.push(`${source}: ${found}`);
  }
  throw new Error(
    `No Vulkan driver found (${refusals.join('; ')}). Install one (Debian and Ubuntu: mesa-vulkan-drivers), or Chromium, ` +
      'or the development dependencies from npm (linux x64).',
  );
}

/**
 * Each gives a driver, or says why there is none.
 *
 * @type {Record<Source, (works: (env: Record<string, string>) => Promise<boolean>) => Promise<{ description: string, env: Record<string, string> } | string>>}
 */
const finders = {
  async system(works) {
    const findLibrary = await libraryFinder();
    const named = process.env.VK_DRIVER_FILES || process.env.VK_ICD_FILENAMES;
    const existing = [];
    for (const file of named ? named.split(':').filter(Boolean) : await systemDriverFiles()) {
      if (await driverExists(file, findLibrary)) existing.push(file);
    }
    if (existing.length === 0) return `no driver ${named ? `at ${named}` : 'in vulkan/icd.d'}`;
    const loader = (await findLibrary(loaderName)) ? {} : await borrowLoader(existing);
    if (!loader) return `a driver, but no ${loaderName}`;
    if (!(await works({ ...commonEnvironment(), ...loader }))) return `no adapter from ${existing.join(', ')}`;
    return { description: named ? `driver ${named}` : "the system's Vulkan", env: loader };
  },
  chromium: async () => (await firstSwiftShader(await folders.chromium(), 'an installed Chromium')) ?? 'none installed',
  playwright: async () => (await firstSwiftShader(await folders.playwright(), "Playwright's Chromium")) ?? 'none downloaded',
  npm: async () =>
    (await firstSwiftShader(await folders.npm(), 'npm package @sparticuz/chromium')) ?? 'no @sparticuz/chromium, or not for this machine',
};

/** Folders that hold a Chromium, and with it SwiftShader and a Vulkan loader. */
const folders = {
  chromium: systemChromiumFolders,
  async playwright() {
    const path = await playwrightChromium();
    return path ? [dirname(path)] : [];
  },
  async npm() {
    const source = await npmChromium();
    return source ? [await unpackSwiftShader(source)] : [];
  },
};

/** @param {readonly string[]} places @param {string} origin */
async function firstSwiftShader(places, origin) {
  for (const folder of places) {
    const file = join(folder, 'vk_swiftshader_icd.json');
    if (!(await isLibrary(join(folder, loaderName))) || !(await driverExists(file, async () => undefined))) continue;
    return { description: `SwiftShader of ${origin} (${folder})`, env: loaderEnvironment(folder, [file]) };
  }
  return undefined;
}

/** Chromium's Vulkan loader for the system's drivers, where they came without one, as into many containers. @param {readonly string[]} files */
async function borrowLoader(files) {
  for (const list of Object.values(folders)) {
    for (const folder of await list()) if (await isLibrary(join(folder, loaderName))) return loaderEnvironment(folder, files);
  }
  return undefined;
}

/** @param {string} folder of the loader @param {readonly string[]} files the drivers to load @returns {Record<string, string>} */
function loaderEnvironment(folder, files) {
  const LD_LIBRARY_PATH = [folder, process.env.LD_LIBRARY_PATH].filter(Boolean).join(':');
  return { LD_LIBRARY_PATH, VK_ICD_FILENAMES: files.join(':'), VK_DRIVER_FILES: files.join(':') };
}

/** Without DENO_WEBGPU_BACKEND, Deno may quietly take OpenGL; without XDG_RUNTIME_DIR it complains on standard error. */
function commonEnvironment() {
  return {
    DENO_WEBGPU_BACKEND: process.env.DENO_WEBGPU_BACKEND || 'vulkan',
    XDG_RUNTIME_DIR: process.env.XDG_RUNTIME_DIR || tmpdir(),
  };
}
