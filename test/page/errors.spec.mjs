/** The page when something is wrong: it says so, says what to do, and goes on. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import {
  expectNoSidewaysScroll,
  expectNotice,
  figure,
  generate,
  inWorker,
  openReady,
  setSampling,
  storyText,
  waitForState,
  waitForTokens,
} from './page.mjs';

const weights = new URL('../../demo/model/model.safetensors', import.meta.url);

/** @type {Record<string, import('../../scripts/test-page.mjs').PageSpec>} */
export const specs = {
  'without WebGPU it says what to do, per browser': async ({ page, url }) => {
    await page.addInitScript(() => {
      Object.defineProperty(Navigator.prototype, 'gpu', { value: undefined });
    });
    await page.setViewportSize({ width: 360, height: 740 });
    await page.goto(url);
    await waitForState(page, 'failed');
    const text = await expectNotice(page, /This browser offers no WebGPU/);
    for (const word of ['Chrome', 'Firefox', 'Safari', '--enable-unsafe-webgpu', 'dom.webgpu.enabled'])
      assert.ok(text.includes(word), word);
    assert.ok(await page.isDisabled('#generate'));
    assert.equal(await page.isVisible('#loading'), false);
    await expectNoSidewaysScroll(page);
  },

  'without an adapter it says so': async ({ page, url }) => {
    await inWorker(page, () => {
      GPU.prototype.requestAdapter = async () => null;
    });
    await page.goto(url);
    await waitForState(page, 'failed');
    await expectNotice(page, /no adapter/);
  },

  'a model that is not there is named, and Retry loads it once it is': async (t) => {
    const { page, url } = t;
    const answer = { status: 404, body: 'not found' };
    await page.route(`${url}model/**`, (route) => route.fulfill(answer));
    await page.goto(url);
    await waitForState(page, 'failed');
    await expectNotice(page, /config\.json.*404.*Check that the URL/s);
    await page.unroute(`${url}model/**`);
    await page.click('#notice button');
    await waitForState(page, 'ready');
    assert.equal(await page.isVisible('#notice'), false);
    assert.equal(await page.isEnabled('#generate'), true);
  },

  'weights that are not there are named': async ({ page, url }) => {
    await page.route('**/model/model.safetensors*', (route) => route.fulfill({ status: 404 }));
    await page.goto(url);
    await waitForState(page, 'failed');
    await expectNotice(page, /model\.safetensors/);
  },

  'a truncated model is refused, and nothing of it stays': async ({ page, url }) => {
    const bytes = await readFile(weights);
    await page.route('**/model/model.safetensors*', (route) => route.fulfill({ body: bytes.subarray(0, bytes.length >> 1) }));
    await page.goto(url);
    await waitForState(page, 'failed');
    await expectNotice(page, /model\.safetensors.*truncated/is);
    assert.ok(await page.isDisabled('#generate'));
  },

  'a model of another architecture is named, with those supported': async ({ page, url }) => {
    await page.route('**/model/config.json*', (route) => route.fulfill({ json: { architectures: ['GPT2LMHeadModel'] } }));
    await page.goto(url);
    await waitForState(page, 'failed');
    await expectNotice(page, /GPT2LMHeadModel.*LlamaForCausalLM/s);
  },

  'a wrong parameter in the address is named': async ({ page, url }) => {
    await page.goto(`${url}?kv-dtype=f8`);
    await waitForState(page, 'failed');
    await expectNotice(page, /"kv-dtype".*"f8".*f32 or f16/s);
  },

  'a lost device is reported, and the model can be loaded again': async (t) => {
    const { page } = t;
    await inWorker(page, () => {
      const { requestDevice } = GPUAdapter.prototype;
      GPUAdapter.prototype.requestDevice = async function (descriptor) {
        const device = await requestDevice.call(this, descriptor);
        new BroadcastChannel('lose the device').addEventListener('message', () => device.destroy());
        return device;
      };
    });
    await openReady(t);
    await page.click('#generate');
    await waitForTokens(page, 2);
    await page.evaluate(() => new BroadcastChannel('lose the device').postMessage('now'));
    await waitForState(page, 'failed');
    await expectNotice(page, /The GPU was lost/);
    await page.click('text=Reload the model');
    await waitForState(page, 'ready');
    await setSampling(page, { maxTokens: 2 });
    await generate(page);
    assert.ok((await storyText(page)).startsWith('Once upon a time'));
    assert.equal(await figure(page, 'outputTokens'), 2);
  },
};
