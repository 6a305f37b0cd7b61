/**
 * Runs the tests of the demonstration page, test/page/*.spec.mjs, in Chromium. Each file exports `specs`: names and async functions
 * that get a fresh page; and, where it likes, `shared`: such that get, in turn, one page that was opened once, since a model takes seconds to load.
 * An error that the page does not catch fails its spec; a failed spec leaves a picture in test-results/.
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
 *
 * @typedef {object} SharedSpecs
 * @property {PageSpec} open opens the page, and again after a spec that failed
 * @property {Record<string, PageSpec>} specs each finds the fields and the window as they were at first
 *
 * @typedef {object} Run a spec, by its full name
 * @property {string} name
 * @property {PageSpec} run
 * @property {SharedSpecs} [shared] those it belongs to
 *
 * @typedef {object} OpenPage
 * @property {import('playwright').BrowserContext} context
 * @property {import('playwright').Page} page
 * @property {Promise<never>} failure what the page did not catch
 * @property {readonly string[]} [fields] what the page's fields held when it had been opened
 */

const { values } = parseArgs({ options: { filter: { type: 'string', default: '' } } });
const limit = 180_000;
const viewport = { width: 1280, height: 900 };
/** @type {'input'} what is typed into, as a selector; the type is that of either */
const fields = /** @type {'input'} */ ('input, textarea');
const folder = join(root, 'test/page');

const specs = await loadSpecs();
const totals = { passed: 0, failed: 0, skipped: 0 };
if (specs.length) await runAll();
console.log(`page: ${totals.passed} passed, ${totals.failed} failed, ${totals.skipped} skipped`);
process.exitCode = totals.failed ? 1 : 0;

/** @returns {Promise<Run[]>} */
async function loadSpecs() {
  const names = await readdir(folder).catch(() => []);
  /** @type {Run[]} */
  const found = [];
  for (const file of names.filter((name) => name.endsWith('.spec.mjs')).sort()) {
    const module = await import(pathToFileURL(join(folder, file)).href);
    const { specs: own, shared } = /** @type {{ specs: Record<string, PageSpec>, shared?: SharedSpecs }} */ (module);
    const nameOf = (/** @type {string} */ name) => `${file.replace('.spec.mjs', '')} / ${name}`;
    for (const [name, run] of Object.entries(own)) found.push({ name: nameOf(name), run });
    for (const [name, run] of Object.entries(shared?.specs ?? {})) found.push({ name: nameOf(name), run, shared });
  }
  return found.filter(({ name }) => name.includes(values.filter));
}

async function runAll() {
  const server = await serveDemo();
  const browser = await launchChromium();
  console.log(browser.description);
  /** @type {Map<SharedSpecs, OpenPage>} */
  const pages = new Map();
  for (const one of specs) {
    const start = performance.now();
    const problem = await runOne(browser, server.url, one, pages);
    const time = `${((performance.now() - start) / 1000).toFixed(1)} s`.padStart(7);
    totals[problem ? 'failed' : 'passed']++;
    console.log(problem ? `FAIL  ${time}  ${one.name}\n${problem.replace(/^/gm, '        ')}` : `ok    ${time}  ${one.name}`);
  }
  await browser.close();
  await server.close();
}

/**
 * @param {import('playwright').Browser} browser @param {string} url @param {Run} run
 * @param {Map<SharedSpecs, OpenPage>} pages those that specs to come share
 * @returns {Promise<string | undefined>} what went wrong
 */
async function runOne(browser, url, { name, run, shared }, pages) {
  const known = shared && pages.get(shared);
  const opened = known ?? (await openPage(browser));
  const { page, failure, context } = opened;
  let closes = true;
  const late = timeLimit();
  const t = { page, url, log: (/** @type {string} */ line) => console.log(`      ${line}`) };
  try {
    if (known) await restore(known);
    else if (shared) await Promise.race([failure, late, shared.open(t)]);
    if (shared && !known) pages.set(shared, { ...opened, fields: await page.$$eval(fields, (all) => all.map(({ value }) => value)) });
    await Promise.race([failure, late, run(t)]);
    closes = !shared || !specs.slice(specs.findIndex((one) => one.run === run) + 1).some((one) => one.shared === shared);
    return undefined;
  } catch (error) {
    if (shared) pages.delete(shared);
    await mkdir(join(root, 'test-results'), { recursive: true });
    const path = join(root, 'test-results', `${name.replaceAll(/[^\w]+/g, '-')}.png`);
    await page.screenshot({ path, timeout: 5_000 }).catch(() => {});
    return error instanceof Error ? (error.stack ?? error.message) : String(error);
  } finally {
    if (closes) await context.close();
  }
}

/** An empty page of a fresh context. @param {import('playwright').Browser} browser @returns {Promise<OpenPage>} */
async function openPage(browser) {
  const context = await browser.newContext({ viewport });
  const page = await context.newPage();
  page.setDefaultTimeout(60_000);
  /** @type {Promise<never>} */
  const failure = new Promise((_, reject) => {
    page.on('pageerror', (error) => reject(new Error(`uncaught in the page: ${error.stack ?? error.message}`)));
    page.on('crash', () => reject(new Error('the page crashed')));
  });
  failure.catch(() => {});
  return { context, page, failure };
}

/** Rejects when a spec has had its time. @returns {Promise<never>} */
function timeLimit() {
  /** @type {Promise<never>} */
  const late = new Promise((_, reject) => {
    setTimeout(() => reject(new Error(`not finished after ${limit / 1000} s`)), limit).unref();
  });
  late.catch(() => {});
  return late;
}

/** Gives an open page its first window and fields back. @param {OpenPage} opened */
async function restore({ page, fields: first = [] }) {
  await page.setViewportSize(viewport);
  await page.$$eval(
    fields,
    (all, before) => {
      all.forEach((field, i) => {
        field.value = before[i];
        field.dispatchEvent(new Event('input', { bubbles: true }));
      });
    },
    first,
  );
}
