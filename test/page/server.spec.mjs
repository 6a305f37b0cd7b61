/** The page whose service worker answers OpenAI's API. */
import assert from 'node:assert/strict';
import { goldenStory, waitForState } from './page.mjs';

/** The text of the demonstration's server, and who answered. @param {import('playwright').Page} page */
async function writeStory(page) {
  const golden = await goldenStory();
  await page.fill('#prompt', golden.text);
  await page.click('#send');
  await waitForState(page, 'writing');
  await waitForState(page, 'ready');
  const text = (await page.textContent('#story')) ?? '';
  assert.ok(text.startsWith(golden.text + golden.greedy_text), text);
}

/** @param {import('playwright').Page} page @returns {Promise<string>} */
function metrics(page) {
  return page.evaluate(async () => (await fetch('metrics')).text());
}

/** @type {Record<string, import('../../scripts/test-page.mjs').PageSpec>} */
export const specs = {
  'where there is no service worker the page answers itself': async ({ page, url }) => {
    await page.goto(`${url}server.html?worker=off`);
    await waitForState(page, 'ready');
    assert.match((await page.textContent('#answered-by')) ?? '', /^the page itself/);
    await writeStory(page);
  },
};

/** @type {import('../../scripts/test-page.mjs').SharedSpecs} */
export const shared = {
  async open({ page, url }) {
    /** @type {Promise<import('playwright').Response>} */
    const models = page.waitForResponse(/\/v1\/models$/);
    await page.goto(`${url}server.html`);
    await waitForState(page, 'ready');
    assert.equal(await page.textContent('#answered-by'), 'the service worker');
    assert.ok((await models).fromServiceWorker(), 'somebody else answered');
    assert.equal(await page.textContent('#status'), '"pagewise-stories" is ready.');
  },
  specs: {
    'a service worker answers, and the text is the golden one': async ({ page }) => {
      await writeStory(page);
      assert.match((await page.textContent('#status')) ?? '', /^1\d\d pieces\.$/);

      const bad = await page.evaluate(async () => {
        const headers = { 'content-type': 'application/json' };
        const response = await fetch('v1/completions', { method: 'POST', headers, body: '{"prompt":"a","top_p":2}' });
        return { status: response.status, param: (await response.json()).error.param };
      });
      assert.deepEqual(bad, { status: 400, param: 'top_p' });
    },

    'a stream that the page stops frees its blocks in the service worker': async ({ page }) => {
      await page.click('#send');
      await page.waitForFunction(() => (document.querySelector('#story')?.textContent?.length ?? 0) > 30);
      assert.match(await metrics(page), /^pagewise:num_requests_running\{.*\} 1$/m);
      await page.click('#stop');
      await waitForState(page, 'ready');
      assert.match((await page.textContent('#status')) ?? '', /^Stopped after \d+ pieces\.$/);
      await page.waitForFunction(async () => {
        const text = await (await fetch('metrics')).text();
        return /num_requests_running\{.*\} 0$/m.test(text) && /kv_cache_usage_perc\{.*\} 0$/m.test(text);
      });
      assert.match(await metrics(page), /request_success_total\{.*finished_reason="abort"\} 1$/m);
    },
  },
};
