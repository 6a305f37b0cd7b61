/**
 * Runs the tests of the demonstration page, test/page/*.spec.mjs, in Chromium. Each file exports `specs`: names and async functions
 * that get a fresh page. An error that the page does not catch fails its spec; a failed spec leaves a picture in test-results/.
 */
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { launchChromium } from './hosts/chromium.mjs';
import { serveDemo } from './hosts/demo-server.mjs';
import { root } from './hosts/folders.mjs';

/**
 * @typedef {object} PageContext
 * @property {import('playwright').Page} page a page of a fresh browser context, still empty
 * @property {string} url the demonstration's address
 * @property {(line: string) => void} log prints a line under the spec's name
 *
 * @typedef {(t: PageContext) => Promise<void>} PageSpec
 */

const { values } = parseArgs({ options: { filter: { type: 'string', default: '' } } });
const limit = 180_000;
const folder = join(root, 'test/page');

const specs = await loadSpecs();
const totals = { passed: 0, failed: 0, skipped: 0 };
if (specs.length) await runAll();
console.log(`page: ${totals.passed} passed, ${totals.failed} failed, ${totals.skipped} skipped`);
process.exitCode = totals.failed ? 1 : 0;

/** @returns {Promise<(readonly [string, PageSpec])[]>} */
async function loadSpecs() {
  const names = await readdir(folder).catch(() => []);
  const found = [];
  for (const file of names.filter((name) => name.endsWith('.spec.mjs')).sort()) {
    const module = await import(pathToFileURL(join(folder, file)).href);
    const list = /** @type {Record<string, PageSpec>} */ (module.specs);
    for (const [name, run] of Object.entries(list)) found.push(/** @type {const} */ ([`${file.replace('.spec.mjs', '')} / ${name}`, run]));
  }
  return found.filter(([name]) => name.includes(values.filter));
}

async function runAll() {
  const server = await serveDemo();
  const browser = await launchChromium();
  console.log(browser.description);
  for (const [name, run] of specs) {
    const start = performance.now();
    const problem = await runOne(browser, server.url, name, run);
    const time = `${((performance.now() - start) / 1000).toFixed(1)} s`.padStart(7);
    totals[problem ? 'failed' : 'passed']++;
    console.log(problem ? `FAIL  ${time}  ${name}\n${problem.replace(/^/gm, '        ')}` : `ok    ${time}  ${name}`);
  }
  await browser.close();
  await server.close();
}

/** @param {import('playwright').Browser} browser @param {string} url @param {string} name @param {PageSpec} run */
async function runOne(browser, url, name, run) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
  const page = await context.newPage();
  page.setDefaultTimeout(60_000);
  /** @type {Promise<never>} */
  const failure = new Promise((_, reject) => {
    page.on('pageerror', (error) => reject(new Error(`uncaught in the page: ${error.stack ?? error.message}`)));
    page.on('crash', () => reject(new Error('the page crashed')));
    setTimeout(() => reject(new Error(`not finished after ${limit / 1000} s`)), limit).unref();
  });
  failure.catch(() => {});
  try {
    await Promise.race([failure, run({ page, url, log: (line) => console.log(`      ${line}`) })]);
    return undefined;
  } catch (error) {
    await mkdir(join(root, 'test-results'), { recursive: true });
    const path = join(root, 'test-results', `${name.replaceAll(/[^\w]+/g, '-')}.png`);
    await page.screenshot({ path, timeout: 5_000 }).catch(() => {});
    return error instanceof Error ? (error.stack ?? error.message) : String(error);
  } finally {
    await context.close();
  }
}
