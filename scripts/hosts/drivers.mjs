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
    const loader = await findLibrary('libvulkan.so.1');
    if (!loader) return 'no libvulkan.so.1';
    const named = process.env.VK_DRIVER_FILES || process.env.VK_ICD_FILENAMES;
    const files = named ? named.split(':').filter(Boolean) : await systemDriverFiles();
    const existing = [];
    for (const file of files) if (await driverExists(file, findLibrary)) existing.push(file);
    if (existing.length === 0) return `no driver ${named ? `at ${named}` : 'in vulkan/icd.d'}`;
    if (!(await works(commonEnvironment()))) return `no adapter from ${existing.join(', ')}`;
    return { description: named ? `driver ${named}` : "the system's Vulkan", env: {} };
  },
  async chromium() {
    return (await firstSwiftShader(await systemChromiumFolders(), 'an installed Chromium')) ?? 'none installed';
  },
  async playwright() {
    const path = await playwrightChromium();
    return (path && (await firstSwiftShader([dirname(path)], "Playwright's Chromium"))) || 'none downloaded';
  },
  async npm() {
    const source = await npmChromium();
    if (!source) return '@sparticuz/chromium is not installed, or not for this machine';
    return (await firstSwiftShader([await unpackSwiftShader(source)], 'npm package @sparticuz/chromium')) ?? 'the package is damaged';
  },
};

/** SwiftShader and a Vulkan loader in one of the folders. @param {readonly string[]} folders @param {string} origin */
async function firstSwiftShader(folders, origin) {
  for (const folder of folders) {
    const file = join(folder, 'vk_swiftshader_icd.json');
    if (!(await isLibrary(join(folder, 'libvulkan.so.1'))) || !(await driverExists(file, async () => undefined))) continue;
    const LD_LIBRARY_PATH = [folder, process.env.LD_LIBRARY_PATH].filter(Boolean).join(':');
    return {
      description: `SwiftShader of ${origin} (${folder})`,
      env: { LD_LIBRARY_PATH, VK_ICD_FILENAMES: file, VK_DRIVER_FILES: file },
    };
  }
  return undefined;
}

/** Without DENO_WEBGPU_BACKEND, Deno may quietly take OpenGL; without XDG_RUNTIME_DIR it complains on standard error. */
function commonEnvironment() {
  return {
    DENO_WEBGPU_BACKEND: process.env.DENO_WEBGPU_BACKEND || 'vulkan',
    XDG_RUNTIME_DIR: process.env.XDG_RUNTIME_DIR || tmpdir(),
  };
}
