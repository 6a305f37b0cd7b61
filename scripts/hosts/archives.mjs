import { createReadStream, createWriteStream } from 'node:fs';
import { access, chmod, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join, resolve, sep } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import { brotliDecompress, createBrotliDecompress } from 'node:zlib';
import { cache } from './folders.mjs';

const decompress = promisify(brotliDecompress);
const require = createRequire(import.meta.url);

/**
 * The npm package `@sparticuz/chromium`: a headless Chromium for linux x64 with SwiftShader and the libraries it needs,
 * as brotli files. We unpack them into our own cache folder; the package would put them into the system's temporary one.
 *
 * @returns {Promise<{ version: string, bin: string } | undefined>} undefined when it is not installed or not for this machine.
 */
export async function npmChromium() {
  if (process.platform !== 'linux' || process.arch !== 'x64') return undefined;
  try {
    const bin = join(dirname(require.resolve('@sparticuz/chromium')), '../../bin');
    await access(join(bin, 'swiftshader.tar.br'));
    const { version } = JSON.parse(await readFile(join(bin, '../package.json'), 'utf8'));
    return { version, bin };
  } catch {
    return undefined;
  }
}

/** The folder holding SwiftShader and a Vulkan loader from npm, unpacked at the first call. @param {{ version: string, bin: string }} source */
export function unpackSwiftShader({ version, bin }) {
  return unpackOnce(`swiftshader-${version}`, (folder) => untar(join(bin, 'swiftshader.tar.br'), folder));
}

/** The folder holding Chromium from npm and all that it needs, unpacked at the first call. @param {{ version: string, bin: string }} source */
export function unpackChromium({ version, bin }) {
  return unpackOnce(`chromium-${version}`, async (folder) => {
    for (const name of ['swiftshader', 'al2023', 'fonts']) await untar(join(bin, `${name}.tar.br`), folder);
    await writeFile(join(folder, 'fonts.conf'), fontConfiguration);
    const executable = join(folder, 'chromium');
    await pipeline(createReadStream(join(bin, 'chromium.br')), createBrotliDecompress(), createWriteStream(executable));
    await chmod(executable, 0o755);
  });
}

/** The system's fonts where it has any, and ours. */
const fontConfiguration = `<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <include ignore_missing="yes">/etc/fonts/fonts.conf</include>
  <dir prefix="relative">fonts</dir>
  <cachedir prefix="relative">fonts-cache</cachedir>
</fontconfig>
`;

/**
 * Fills `cache/name` once: in a folder beside it that is renamed when complete, so that a folder of that name is always whole,
 * also when two processes start together.
 *
 * @param {string} name
 * @param {(folder: string) => Promise<void>} fill
 */
async function unpackOnce(name, fill) {
  const folder = join(cache, name);
  if (await exists(folder)) return folder;
  const partial = `${folder}.${process.pid}.partial`;
  try {
    await mkdir(partial, { recursive: true });
    await fill(partial);
    await rename(partial, folder);
  } catch (error) {
    await rm(partial, { recursive: true, force: true });
    if (!(await exists(folder))) throw error;
  }
  return folder;
}

/** @param {string} path */
async function exists(path) {
  return access(path).then(
    () => true,
    () => false,
  );
}

/**
 * Unpacks the plain files and folders of a brotli-compressed ustar archive.
 *
 * @param {string} file
 * @param {string} folder
 */
async function untar(file, folder) {
  const archive = await decompress(await readFile(file));
  const text = (/** @type {number} */ start, /** @type {number} */ length) =>
    archive.toString('utf8', start, start + length).replace(/\0.*$/s, '');
  for (let offset = 0; offset + 512 <= archive.length && archive[offset] !== 0; ) {
    const prefix = text(offset + 257, 5) === 'ustar' ? text(offset + 345, 155) : '';
    const path = resolve(folder, prefix, text(offset, 100));
    const mode = Number.parseInt(text(offset + 100, 8), 8);
    const size = Number.parseInt(text(offset + 124, 12), 8);
    const type = text(offset + 156, 1);
    if (!path.startsWith(resolve(folder) + sep) && path !== resolve(folder)) throw new Error(`${file}: unsafe path ${path}`);
    if (type === '5') await mkdir(path, { recursive: true });
    if (type === '0' || type === '') {
      await mkdir(dirname(path), { recursive: true });
      await writeFile(path, archive.subarray(offset + 512, offset + 512 + size), { mode });
    }
    offset += 512 + Math.ceil(size / 512) * 512;
  }
}
