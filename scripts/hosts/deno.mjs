import { access } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { cache, root } from './folders.mjs';
import { watchProcess } from './processes.mjs';

/** Deno's npm package for each platform it is built for. */
const packages = {
  'linux-x64': 'linux-x64-glibc',
  'linux-arm64': 'linux-arm64-glibc',
  'darwin-x64': 'darwin-x64',
  'darwin-arm64': 'darwin-arm64',
  'win32-x64': 'win32-x64',
  'win32-arm64': 'win32-arm64',
};

/** The Deno that npm installed. @returns {Promise<string>} the path of its binary. */
export async function denoPath() {
  const platform = /** @type {keyof typeof packages} */ (`${process.platform}-${process.arch}`);
  const name = `@deno/${packages[platform] ?? platform}`;
  try {
    const require = createRequire(createRequire(import.meta.url).resolve('deno/package.json'));
    const path = join(dirname(require.resolve(`${name}/package.json`)), process.platform === 'win32' ? 'deno.exe' : 'deno');
    await access(path);
    return path;
  } catch {
    throw new Error(
      `Deno is not installed: the npm package ${name} is missing. Run "npm ci" (with optional packages) on a platform that Deno supports.`,
    );
  }
}

/** What Deno needs in its environment beside the driver's part: its cache in ours, and no look for updates. */
export const denoEnvironment = { DENO_DIR: join(cache, 'deno'), DENO_NO_UPDATE_CHECK: '1' };

/**
 * What the specs add for lavapipe, unless told otherwise: vectors of 128 bits instead of 256 take less to compile, and our kernels' scattered loads
 * less to run. A workgroup of 8 then runs as two vectors, which only barriers keep in step; the terminal programs have the driver's own width.
 */
export const lavapipeEnvironment = { LP_NATIVE_VECTOR_WIDTH: process.env.LP_NATIVE_VECTOR_WIDTH ?? '128' };

/** What Deno is told to run the terminal program, which may write where it is asked for a file. @param {readonly string[]} programArguments */
export function generateArguments(programArguments) {
  const writes = programArguments.some((one) => one === '--trace' || one.startsWith('--trace='));
  return terminalArguments('generate.ts', writes ? ['--allow-write'] : [], programArguments);
}

/** What Deno is told to run the server. @param {readonly string[]} programArguments */
export function serveArguments(programArguments) {
  return terminalArguments('serve.ts', [], programArguments);
}

/** @param {string} program @param {readonly string[]} more permissions @param {readonly string[]} programArguments */
function terminalArguments(program, more, programArguments) {
  const permissions = ['--allow-read', '--allow-net', '--allow-env', '--allow-sys', ...more];
  const options = ['--no-prompt', '--quiet', ...permissions, '--config', join(root, 'deno.json')];
  return ['run', ...options, join(root, 'demo/terminal', program), ...programArguments];
}

/** Whether Deno, in this environment, finds an adapter. @param {Record<string, string>} env */
export async function denoFindsAdapter(env) {
  const code = 'console.log((await navigator.gpu?.requestAdapter()) ? "found" : "none")';
  let found = false;
  const probe = watchProcess(await denoPath(), ['eval', '--no-config', code], {
    env: { ...denoEnvironment, ...env },
    onLine: (line) => {
      found ||= line === 'found';
    },
  });
  const timer = setTimeout(probe.kill, 30_000);
  await probe.done;
  clearTimeout(timer);
  return found;
}
