import { join } from 'node:path';
import { createServer } from 'vite';
import { launchChromium } from './chromium.mjs';
import { buildForNode, dawnFindsAdapter } from './dawn.mjs';
import { denoEnvironment, denoPath, lavapipeEnvironment } from './deno.mjs';
import { findDriver } from './drivers.mjs';
import { root } from './folders.mjs';
import { watchProcess } from './processes.mjs';

/**
 * @typedef {import('../../test/harness/events.ts').HarnessEvent} HarnessEvent
 * @typedef {import('../../test/harness/events.ts').RunOptions} RunOptions
 *
 * @typedef {object} Watcher
 * @property {(event: HarnessEvent) => void} onEvent
 * @property {(line: string) => void} onLine whatever else the host prints
 *
 * @typedef {object} HostRun a run of the specs that has begun
 * @property {string} place the driver or the browser, in words
 * @property {Promise<void>} done rejects when the host fails (a failed spec is an event, not a failure of the host)
 * @property {() => void} stop
 */

/** Starts the specs in a host. @type {Record<'deno' | 'node' | 'chromium', (options: RunOptions, watcher: Watcher, driver?: string) => Promise<HostRun>>} */
export const specHosts = {
  async deno(options, watcher, only) {
    const driver = await findDriver({ only });
    const args = ['run', '--allow-all', '--no-prompt', join(root, 'test/harness/deno.ts'), JSON.stringify(options)];
    return runChild(await denoPath(), args, { ...denoEnvironment, ...lavapipeEnvironment, ...driver.env }, watcher, placeOf(driver));
  },

  async node(options, watcher, only) {
    const driver = await findDriver({ only, works: dawnFindsAdapter });
    const args = ['--enable-source-maps', await buildForNode('specs-node', 'node.js'), JSON.stringify(options)];
    return runChild(process.execPath, args, driver.env, watcher, placeOf(driver));
  },

  async chromium(options, { onEvent, onLine }) {
    const server = await createServer({ root, configFile: join(root, 'vite.config.ts'), mode: 'specs', logLevel: 'warn' });
    await server.listen();
    const browser = await launchChromium().catch(async (error) => {
      await server.close();
      throw error;
    });
    const run = async () => {
      const page = await browser.newPage();
      page.on('console', (message) => {
        if (message.type() !== 'debug') onLine(`[${message.type()}] ${message.text()}`);
      });
      /** @type {Promise<never>} */
      const failure = new Promise((_, reject) => {
        page.on('pageerror', (error) => reject(error));
        page.on('crash', () => reject(new Error('the page crashed')));
        page.on('response', (response) => {
          const script = response.request().resourceType() === 'script';
          if (script && response.status() >= 400)
            reject(new Error(`${response.url()}: ${response.status()}; see the server's message above`));
        });
      });
      failure.catch(() => {});
      await page.exposeBinding('pagewiseEvent', (_source, event) => onEvent(event));
      const address = /** @type {import('node:net').AddressInfo} */ (server.httpServer?.address());
      await page.goto(`http://127.0.0.1:${address.port}/test/harness/chromium.html`);
      await Promise.race([failure, page.waitForFunction('window.runPagewiseSpecs', undefined, { timeout: 60_000 })]);
      await Promise.race([failure, page.evaluate((chosen) => window.runPagewiseSpecs(chosen), options)]);
    };
    const stop = () => void browser.close();
    return {
      place: browser.description,
      done: run().finally(async () => {
        await browser.close();
        await server.close();
      }),
      stop,
    };
  },
};

/**
 * Runs a host that prints an event per line.
 *
 * @param {string} command
 * @param {string[]} args
 * @param {Record<string, string>} env
 * @param {Watcher} watcher
 * @param {string} place
 * @returns {HostRun}
 */
function runChild(command, args, env, { onEvent, onLine }, place) {
  const child = watchProcess(command, args, {
    cwd: root,
    env,
    onLine: (line) => (line.startsWith('{"event":') ? onEvent(JSON.parse(line)) : onLine(line)),
    onErrorLine: onLine,
  });
  const done = child.done.then((code) => {
    if (code !== 0) throw new Error(`the host ended with exit code ${code}`);
  });
  return { place, done, stop: child.kill };
}

/** @param {import('./drivers.mjs').Driver} driver */
function placeOf({ source, description, backend }) {
  return `${backend}, ${source}: ${description}`;
}
