/** `npm run screenshot`: a picture of the demonstration page in the middle of a story, into docs/page.png. See `--help`. */
import { mkdir } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { launchChromium } from './hosts/chromium.mjs';
import { serveDemo } from './hosts/demo-server.mjs';
import { root } from './hosts/folders.mjs';

const help = `Usage: npm run screenshot -- [options]

  --output FILE           default docs/page.png
  --width N, --height N   of the window; default 1280 by 960
  --scale N               device pixels per CSS pixel; default 1
  --dark                  in the dark colours
  --prompt TEXT, --seed N, --tokens N`;

const { values } = parseArgs({
  options: {
    output: { type: 'string', default: 'docs/page.png' },
    width: { type: 'string', default: '1280' },
    height: { type: 'string', default: '960' },
    scale: { type: 'string', default: '1' },
    dark: { type: 'boolean', default: false },
    prompt: { type: 'string', default: 'Once upon a time' },
    seed: { type: 'string', default: '1' },
    tokens: { type: 'string', default: '134' },
    help: { type: 'boolean', short: 'h' },
  },
});

if (values.help) console.log(help);
else await takePicture();

async function takePicture() {
  const server = await serveDemo();
  const browser = await launchChromium();
  try {
    const page = await browser.newPage({
      viewport: { width: Number(values.width), height: Number(values.height) },
      deviceScaleFactor: Number(values.scale),
      colorScheme: values.dark ? 'dark' : 'light',
      reducedMotion: 'reduce',
    });
    page.setDefaultTimeout(180_000);
    await page.goto(server.url);
    await page.waitForSelector('body[data-state="ready"]');
    // A short text first, so that the figures show no warm-up.
    await write(page, '4');
    await page.waitForSelector('body[data-state="ready"]');
    await write(page, '1000');
    await page.waitForFunction(
      (wanted) => Number(document.querySelector('[data-figure="outputTokens"] .value')?.textContent) >= wanted,
      Number(values.tokens),
    );
    await page.evaluate(() => scrollTo(0, 0));
    const path = resolve(root, values.output);
    await mkdir(dirname(path), { recursive: true });
    await page.screenshot({ path });
    console.log(`${browser.description}: ${path}`);
  } finally {
    await browser.close();
    await server.close();
  }
}

/** @param {import('playwright').Page} page @param {string} maxTokens */
async function write(page, maxTokens) {
  await page.fill('#prompt', values.prompt);
  await page.fill('#seed', values.seed);
  await page.fill('#maxTokens', maxTokens);
  await page.click('#generate');
  await page.waitForSelector('body[data-state="writing"]');
}
