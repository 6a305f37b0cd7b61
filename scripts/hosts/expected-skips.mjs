import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

const file = fileURLToPath(new URL('../../test/harness/expected-skips.json', import.meta.url));

/** The software adapters: on these the number of skipped specs is known and checked. A real GPU may have any features. */
const softwareAdapters = { swiftshader: /swiftshader/i, lavapipe: /llvmpipe|lavapipe/i };

/**
 * Compares the skipped specs of a whole run with those expected of this host and adapter.
 *
 * @param {string} host
 * @param {string} adapter
 * @param {Record<string, number>} skips how many specs each missing feature skipped
 * @param {boolean} update write these counts down as the expected ones
 * @returns {Promise<string | undefined>} what differs
 */
export async function checkSkips(host, adapter, skips, update) {
  const name = Object.entries(softwareAdapters).find(([, pattern]) => pattern.test(adapter))?.[0];
  if (!name) return undefined;
  const key = `${host}/${name}`;
  /** @type {Record<string, Record<string, number>>} */
  const all = JSON.parse(await readFile(file, 'utf8'));
  if (update) {
    const entries = Object.entries({ ...all, [key]: sorted(skips) });
    await writeFile(file, `${JSON.stringify(sorted(Object.fromEntries(entries)), undefined, 2)}\n`);
    return undefined;
  }
  const expected = JSON.stringify(sorted(all[key] ?? {}));
  const actual = JSON.stringify(sorted(skips));
  if (expected === actual) return undefined;
  return `${key}: skipped ${actual}, but test/harness/expected-skips.json says ${expected}. If that is meant: npm run test:gpu -- --host ${host} --update-skips`;
}

/** @template T @param {Record<string, T>} record */
function sorted(record) {
  return Object.fromEntries(Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1)));
}
