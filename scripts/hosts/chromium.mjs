import { constants } from 'node:fs';
import { access, realpath } from 'node:fs/promises';
import { delimiter, dirname, join } from 'node:path';
import { npmChromium, unpackChromium } from './archives.mjs';

/**
 * A Chromium that may be launched.
 *
 * @typedef {object} Browser
 * @property {'environment' | 'system' | 'playwright' | 'npm'} source
 * @property {string} executablePath
 * @property {Record<string, string>} env added to the environment it runs in
 */

const names = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome'];

const fixedPaths = {
  linux: ['/usr/bin/chromium', '/usr/bin/google-chrome', '/opt/google/chrome/chrome', '/snap/bin/chromium'],
  darwin: [
    '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
    '/Applications/Chromium.app/Contents/MacOS/Chromium',
    '/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge',
  ],
  win32: ['ProgramFiles', 'ProgramFiles(x86)', 'LocalAppData'].flatMap((name) => {
    const folder = process.env[name];
    return folder ? [join(folder, 'Google/Chrome/Application/chrome.exe'), join(folder, 'Microsoft/Edge/Application/msedge.exe')] : [];
  }),
};

/** Programs that are Chromium by their place or name, whether they start or not. @returns {Promise<string[]>} */
export async function systemChromiums() {
  const suffix = process.platform === 'win32' ? '.exe' : '';
  const folders = (process.env.PATH ?? '').split(delimiter).filter(Boolean);
  const onPath = names.flatMap((name) => folders.map((folder) => join(folder, name + suffix)));
  const places = [...onPath, ...(fixedPaths[/** @type {keyof typeof fixedPaths} */ (process.platform)] ?? [])];
  /** @type {Map<string, string>} */
  const found = new Map();
  for (const path of places) {
    if (!(await isExecutable(path))) continue;
    const real = await realpath(path);
    if (!found.has(real)) found.set(real, path);
  }
  return [...found.values()];
}

/** Playwright's own Chromium, when it was downloaded. @returns {Promise<string | undefined>} */
export async function playwrightChromium() {
  const { chromium } = await import('playwright');
  const path = chromium.executablePath();
  return path && (await isExecutable(path)) ? path : undefined;
}

/**
 * The Chromiums of this machine, best first: the one that PAGEWISE_CHROMIUM names (then no other), the system's, Playwright's, npm's.
 *
 * @returns {AsyncGenerator<Browser>}
 */
export async function* browsers() {
  const named = process.env.PAGEWISE_CHROMIUM;
  if (named && named !== 'npm') return yield { source: 'environment', executablePath: named, env: {} };
  if (named !== 'npm') {
    for (const executablePath of await systemChromiums()) yield { source: 'system', executablePath, env: {} };
    const executablePath = await playwrightChromium();
    if (executablePath) yield { source: 'playwright', executablePath, env: {} };
  }
  const source = await npmChromium();
  if (!source) return;
  const folder = await unpackChromium(source);
  const libraries = [folder, join(folder, 'lib'), process.env.LD_LIBRARY_PATH].filter(Boolean).join(':');
  const env = { LD_LIBRARY_PATH: libraries, FONTCONFIG_FILE: join(folder, 'fonts.conf') };
  yield { source: 'npm', executablePath: join(folder, 'chromium'), env };
}

/** What every launch gets: WebGPU also on the software adapter, no traffic of Chromium's own, and what a person adds for a real GPU. */
const args = [
  '--enable-unsafe-webgpu',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--no-first-run',
  ...(process.env.PAGEWISE_CHROMIUM_ARGS ?? '').split(' ').filter(Boolean),
];

const oldestVersion = 125;

/**
 * Launches the first Chromium that starts. As an ordinary user it is tried inside its sandbox first; root has none.
 *
 * @returns {Promise<import('playwright').Browser & { description: string }>} the browser, and in words what and where it is.
 */
export async function launchChromium() {
  const { chromium } = await import('playwright');
  const refusals = [];
  for await (const { source, executablePath, env } of browsers()) {
    for (const chromiumSandbox of process.getuid?.() === 0 ? [false] : [true, false]) {
      try {
        const environment = /** @type {Record<string, string>} */ ({ ...process.env, ...env });
        const browser = await chromium.launch({ executablePath, args, env: environment, chromiumSandbox, timeout: 60_000 });
        const version = browser.version();
        if (Number.parseInt(version, 10) >= oldestVersion) {
          return Object.assign(browser, { description: `Chromium ${version} (${source}: ${executablePath})` });
        }
        await browser.close();
        refusals.push(`${executablePath}: version ${version} is older than ${oldestVersion}`);
        break;
      } catch (error) {
        refusals.push(`${executablePath}: ${firstLine(error)}`);
      }
    }
  }
  const tried = refusals.length ? ` Tried ${refusals.join('; ')}.` : '';
  throw new Error(
    `No Chromium that starts.${tried} Install Chromium or Chrome (Debian: chromium), or run "npx playwright install chromium", ` +
      'or set PAGEWISE_CHROMIUM to its path.',
  );
}

/** The folders beside the installed Chromiums, where their SwiftShader lies. @returns {Promise<string[]>} */
export async function systemChromiumFolders() {
  const real = await Promise.all((await systemChromiums()).map((path) => realpath(path)));
  const usual = [
    '/usr/lib/chromium',
    '/usr/lib64/chromium',
    '/usr/lib64/chromium-browser',
    '/usr/lib/chromium-browser',
    '/opt/google/chrome',
  ];
  const snap = '/snap/chromium/current/usr/lib/chromium-browser';
  return [...new Set([...real.map((path) => dirname(path)), ...usual, snap])];
}

/** @param {unknown} error */
function firstLine(error) {
  return String(error instanceof Error ? error.message : error).split('\n')[0];
}

/** @param {string} path */
async function isExecutable(path) {
  return access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}
