/** The page when all goes well. */
import assert from 'node:assert/strict';
import {
  expectNoSidewaysScroll,
  expectNotice,
  figure,
  generate,
  goldenStory,
  openReady,
  setSampling,
  storyText,
  waitForState,
  waitForTokens,
} from './page.mjs';

const rounds = 6;

/** @typedef {Window & { observed: { calls: string[], late: number[], frames: { duration: number, scripts: number }[] } }} Observed */

/** @type {Record<string, import('../../scripts/test-page.mjs').PageSpec>} */
export const specs = {
  'stops midway, writes again, and gives the same text for the same seed': async (t) => {
    const { page } = t;
    await openReady(t, '?kv-dtype=f16&run-ahead=4');
    await setSampling(page, { maxTokens: 1000, seed: 7 });
    await page.click('#generate');
    await waitForTokens(page, 8);
    await page.click('#stop');
    await waitForState(page, 'ready');
    const first = await storyText(page);
    assert.match((await page.textContent('#status')) ?? '', /^Stopped after \d+ tokens\.$/);
    assert.ok(first.startsWith('Once upon a time') && first.length > 30, first);
    assert.equal(await figure(page, 'runAhead'), 4);
    assert.match((await page.textContent('#blocks-summary')) ?? '', /^0 of 64/);

    await setSampling(page, { maxTokens: 8 });
    await page.click('#generate');
    await waitForState(page, 'ready');
    const second = await storyText(page);
    assert.ok(second.length > 30 && first.startsWith(second), `"${second}" does not begin "${first}"`);
    assert.equal(await page.textContent('[data-figure="seed"] .value'), '7');
  },
};

/** By keyboard first: where Tab begins is where somebody clicked last. */
/** @type {import('../../scripts/test-page.mjs').SharedSpecs} */
export const shared = {
  async open(t) {
    const { page } = t;
    await page.addInitScript(() => {
      const calls = /** @type {string[]} */ ([]);
      const classes = { GPU, GPUAdapter, GPUDevice, GPUQueue, GPUBuffer, GPUCommandEncoder, GPUComputePassEncoder };
      for (const [name, { prototype }] of Object.entries(classes)) {
        for (const [method, { value }] of Object.entries(Object.getOwnPropertyDescriptors(prototype))) {
          if (typeof value !== 'function' || method === 'constructor') continue;
          Object.defineProperty(prototype, method, {
            value: function (/** @type {unknown[]} */ ...args) {
              calls.push(`${name}.${method}`);
              return value.apply(this, args);
            },
          });
        }
      }
      // What a reader would feel: how late a timer is, and frames that took long, with the part of them that was the page's own scripts.
      const late = /** @type {number[]} */ ([]);
      let last = performance.now();
      setInterval(() => {
        late.push(performance.now() - last);
        last = performance.now();
      }, 10);
      const frames = /** @type {{ duration: number, scripts: number }[]} */ ([]);
      new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) {
          const { scripts } = /** @type {{ scripts: { duration: number }[] }} */ (/** @type {unknown} */ (entry));
          frames.push({ duration: entry.duration, scripts: scripts.reduce((sum, { duration }) => sum + duration, 0) });
        }
      }).observe({ type: 'long-animation-frame' });
      Object.assign(window, { observed: { calls, late, frames } });
    });
    await openReady(t);
  },
  specs: {
    'works by keyboard alone': async ({ page }) => {
      const focused = () => page.evaluate(() => document.activeElement?.id);
      await page.keyboard.press('Tab');
      assert.equal(await focused(), 'prompt');
      assert.ok(await page.evaluate(() => document.activeElement?.matches(':focus-visible')));
      await page.keyboard.press('Control+A');
      await page.keyboard.type('One day, a small dog');
      await page.keyboard.press('Control+Enter');
      await waitForTokens(page, 2);
      assert.equal(await focused(), 'prompt');
      await page.keyboard.press('Escape');
      await waitForState(page, 'ready');
      assert.ok((await storyText(page)).startsWith('One day, a small dog'));

      for (let presses = 0; (await focused()) !== 'generate'; presses++) {
        assert.ok(presses < 10, 'Tab does not reach Generate');
        await page.keyboard.press('Tab');
      }
      await page.keyboard.press('Enter');
      await waitForState(page, 'writing');
      assert.equal(await focused(), 'stop');
      await waitForTokens(page, 1);
      await page.keyboard.press('Space');
      await waitForState(page, 'ready');
      assert.equal(await focused(), 'generate');

      await page.focus('#maxTokens');
      await page.keyboard.press('Control+A');
      await page.keyboard.type('3');
      await page.keyboard.press('Enter'); // "writing" from here on
      await waitForState(page, 'ready');
      assert.equal(await figure(page, 'outputTokens'), 3);
    },

    'writes the golden story, and the figures agree with it': async ({ page }) => {
      const golden = await goldenStory();
      await page.fill('#prompt', golden.text);
      await setSampling(page, { temperature: 0, maxTokens: 64 });
      await page.click('#generate');
      await waitForState(page, 'writing');
      await waitForTokens(page, 20);
      assert.match((await page.textContent('#blocks-summary')) ?? '', /^[1-9]\d* of 64 blocks in use/);
      await waitForState(page, 'ready');

      assert.equal(await storyText(page), golden.text + golden.greedy_text);
      assert.equal(await page.textContent('#status'), 'Ended at the limit: 64 tokens.');
      assert.equal(await figure(page, 'promptTokens'), golden.ids.length);
      assert.equal(await figure(page, 'outputTokens'), 64);
      for (const name of ['timeToFirstToken', 'tokensPerSecond', 'launchesPerToken', 'pipelinesCompiled', 'hostTimePerStep']) {
        assert.ok((await figure(page, name)) > 0, `${name} is not known`);
      }
      assert.match((await page.textContent('[data-figure="adapter"] .value')) ?? '', /\w/);
      // 14 + 64 tokens, the last of which is never read again.
      assert.match((await page.textContent('#blocks-summary')) ?? '', /^0 of 64 blocks in use \(5 at most so far\), 16 tokens each\.$/);
      assert.equal(await page.locator('.caret').count(), 0);
    },

    'fits a phone': async ({ page }) => {
      await page.setViewportSize({ width: 360, height: 740 });
      await expectNoSidewaysScroll(page);
      await page.fill('#prompt', `Once upon a time ${'in a land far, far away '.repeat(12)}lived Rumpelstiltskin${'n'.repeat(60)}`);
      await page.click('#generate');
      await waitForTokens(page, 4);
      await expectNoSidewaysScroll(page);
      // The end of the text stays in view as it grows.
      await page.waitForFunction(() => {
        const box = document.querySelector('.caret')?.getBoundingClientRect();
        return box && box.top > 0 && box.bottom < innerHeight;
      });
      for (const id of ['generate', 'stop']) {
        const box = await page.evaluate((name) => document.getElementById(name)?.getBoundingClientRect().height ?? 0, id);
        assert.ok(box === 0 || box >= 44, `${id} is ${box} px high: too small for a finger`);
      }
      await page.keyboard.press('Escape');
      await waitForState(page, 'ready');
    },

    'keeps every task of the main thread under 50 ms while it writes': async ({ page, log }) => {
      await page.evaluate(() => {
        const tasks = /** @type {number[]} */ ([]);
        const observer = new PerformanceObserver((list) => tasks.push(...list.getEntries().map(({ duration }) => Math.round(duration))));
        observer.observe({ type: 'longtask' });
        Object.assign(window, { takeLongTasks: () => tasks.splice(0) });
      });
      const takeLongTasks = () => page.evaluate(() => /** @type {{ takeLongTasks?: () => number[] }} */ (window).takeLongTasks?.() ?? []);
      await setSampling(page, { temperature: 0.7, seed: 3, maxTokens: 16 });
      // A task that the page itself makes long recurs in every round. One that lost its processor to the software adapter does not: so one
      // round without any is asked for, of several.
      for (let round = 0; round <= rounds; round++) {
        await generate(page);
        await page.waitForTimeout(100);
        const tasks = await takeLongTasks();
        if (round === 0) continue; // warm-up
        if (tasks.length === 0) return;
        log(`round ${round}: tasks of ${tasks.join(', ')} ms, at ${await figure(page, 'tokensPerSecond')} tokens/s`);
      }
      assert.fail(`each of ${rounds} rounds had a task over 50 ms`);
    },

    'computes in its worker alone: the page makes no WebGPU call': async ({ page, log }) => {
      const tokens = 24;
      await setSampling(page, { temperature: 0, maxTokens: tokens });
      await page.evaluate(() => /** @type {Observed} */ (/** @type {unknown} */ (window)).observed.late.splice(0));
      await generate(page);
      const { calls, late, frames } = await page.evaluate(() => /** @type {Observed} */ (/** @type {unknown} */ (window)).observed);
      const longest = Math.max(...late);
      const scripts = Math.max(0, ...frames.map((frame) => frame.scripts));
      log(
        `timers at most ${Math.round(longest)} ms apart instead of 10; ${frames.length} long frames, at most ${Math.round(scripts)} ms of one in scripts`,
      );
      assert.deepEqual(calls, []);
      assert.equal(await figure(page, 'outputTokens'), tokens);
    },

    'wrong values and a prompt too long give a message, and the next text is written': async ({ page }) => {
      for (const [id, value, expected] of [
        ['temperature', '-1', /Temperature must be a number of at least 0/],
        ['topP', '0', /Top-p must be a number above 0/],
        ['maxTokens', '1.5', /Tokens must be an integer of at least 1/],
      ]) {
        const before = await page.inputValue(`#${id}`);
        await page.fill(`#${id}`, String(value));
        await page.click('#generate');
        assert.match(await page.innerText('#sampling-problem'), /** @type {RegExp} */ (expected));
        assert.equal(await page.getAttribute(`#${id}`, 'aria-invalid'), 'true');
        assert.equal(await page.evaluate(() => document.activeElement?.id), id);
        await page.fill(`#${id}`, before);
        assert.equal(await page.isVisible('#sampling-problem'), false);
      }
      await page.focus('#seed');
      await page.keyboard.type('e');
      await page.click('#generate');
      assert.match(await page.innerText('#sampling-problem'), /Seed must be an integer/);
      await page.fill('#seed', '');

      await page.fill('#prompt', 'word '.repeat(1100));
      await page.click('#generate');
      await expectNotice(page, /1024/);
      await waitForState(page, 'ready');

      await page.fill('#prompt', 'Once');
      await setSampling(page, { maxTokens: 3 });
      await generate(page);
      assert.equal(await page.isVisible('#notice'), false);
      assert.equal(await figure(page, 'outputTokens'), 3);
    },
  },
};
