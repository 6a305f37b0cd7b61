/** What the page's specs do and read, in words. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';

/**
 * @typedef {import('playwright').Page} Page
 * @typedef {import('../../scripts/test-page.mjs').PageContext} PageContext
 * @typedef {'loading' | 'ready' | 'writing' | 'failed'} PageState
 *
 * @typedef {object} Golden
 * @property {string} text
 * @property {readonly number[]} ids
 * @property {string} greedy_text
 */

/** A greedy continuation of 64 tokens that transformers computed. @returns {Promise<Golden>} */
export async function goldenStory() {
  const file = new URL('../golden/golden.json', import.meta.url);
  return JSON.parse(await readFile(file, 'utf8')).prompts[0];
}

/**
 * Has a function run in the page's worker, before it serves. Playwright's init scripts do not reach workers.
 * @param {Page} page @param {() => void} run
 */
export async function inWorker(page, run) {
  await page.route('**/engine-worker.ts*', async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, body: `(${run})();\n${await response.text()}` });
  });
}

/** Opens the page and waits until its model is loaded. @param {PageContext} t @param {string} [query] */
export async function openReady({ page, url }, query = '') {
  await page.goto(url + query);
  await waitForState(page, 'ready');
}

/** @param {Page} page @param {PageState} state */
export async function waitForState(page, state) {
  try {
    await page.waitForSelector(`body[data-state="${state}"]`);
  } catch (error) {
    const status = await page.textContent('#status');
    const notice = await page.textContent('#notice');
    throw new Error(`The page did not become "${state}": "${status}" ${notice}`, { cause: error });
  }
}

/** Writes a text from its beginning to its end. The click itself makes the page "writing", so that "ready" is the end. @param {Page} page */
export async function generate(page) {
  await page.click('#generate');
  await waitForState(page, 'ready');
}

/** Sets the sampling fields. @param {Page} page @param {Record<string, string | number>} values by the fields' ids */
export async function setSampling(page, values) {
  for (const [id, value] of Object.entries(values)) await page.fill(`#${id}`, String(value));
}

/** Waits until this many tokens are written. @param {Page} page @param {number} count */
export async function waitForTokens(page, count) {
  await page.waitForFunction(
    (wanted) => Number(document.querySelector('[data-figure="outputTokens"] .value')?.textContent) >= wanted,
    count,
  );
}

/** Prompt and text as they stand on the page. @param {Page} page */
export function storyText(page) {
  return page.$$eval('#story p', (paragraphs) => paragraphs.map(({ textContent }) => textContent).join('\n'));
}

/** A figure's number; NaN where none is shown. @param {Page} page @param {string} name */
export async function figure(page, name) {
  const text = await page.textContent(`[data-figure="${name}"] .value`);
  return Number(text?.replaceAll(',', '') ?? Number.NaN);
}

/** Asserts that a notice is visible, and gives its text. @param {Page} page @param {RegExp} expected */
export async function expectNotice(page, expected) {
  await page.waitForSelector('#notice', { state: 'visible' });
  const text = await page.innerText('#notice');
  assert.match(text, expected);
  return text;
}

/** Asserts that nothing sticks out of the window sideways. @param {Page} page */
export async function expectNoSidewaysScroll(page) {
  const { content, view, widest } = await page.evaluate(() => {
    const rightmost = [...document.querySelectorAll('body *')].reduce((a, b) =>
      a.getBoundingClientRect().right >= b.getBoundingClientRect().right ? a : b,
    );
    return { content: document.documentElement.scrollWidth, view: innerWidth, widest: rightmost.outerHTML.slice(0, 100) };
  });
  assert.ok(content <= view, `the page is ${content} px wide in a window of ${view}: ${widest}`);
}
