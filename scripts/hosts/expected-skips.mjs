import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

const file = fileURLToPath(new URL('../../test/harness/expected-skips.json', import.meta.url));

/** The software adapters: on these the number of skipped specs is known and checked. A real GPU may have any features. */
const softwareAdapters = { swiftshader: /swiftshader/i, lavapipe: /llvmpipe|lavapipe/i };

/**
 * How many specs each missing feature skipped.
 *
 * @typedef {Record<string, number>} Skips
 */

/** Reads the expected skips, by "host/adapter", or "host version/adapter" where one version lacks what later ones have. @returns {Promise<Record<string, Skips>>} */
export async function readExpectedSkips() {
  return JSON.parse(await readFile(file, 'utf8'));
}

/** Writes these skips down as the expected ones of this host and adapter. @param {string} host @param {string} adapter @param {Skips} skips */
export async function writeExpectedSkips(host, adapter, skips) {
  const key = keyOf(host, adapter);
  if (!key) throw new Error(`the skips of ${adapter} are not checked: it is a real GPU.`);
  const all = { ...(await readExpectedSkips()), [key]: sorted(skips) };
  await writeFile(file, `${JSON.stringify(sorted(all), undefined, 2)}\n`);
}

/**
 * Compares the skipped specs of a whole run with those expected of this host and adapter.
 *
 * @param {Record<string, Skips>} all
 * @param {string} host
 * @param {string} adapter
 * @param {Skips} skips
 * @param {string} [version] the host's major version
 * @returns {string | undefined} what differs
 */
export function compareSkips(all, host, adapter, skips, version) {
  const ofVersion = keyOf(`${host} ${version}`, adapter);
  const key = ofVersion && all[ofVersion] ? ofVersion : keyOf(host, adapter);
  if (!key) return undefined;
  const expected = JSON.stringify(sorted(all[key] ?? {}));
  const actual = JSON.stringify(sorted(skips));
  if (expected === actual) return undefined;
  return (
    `${key}: skipped ${actual}, but test/harness/expected-skips.json says ${expected}. ` +
    `If the new number is right: npm run test:gpu -- --host ${host} --update-skips`
  );
}

/** @param {string} host @param {string} adapter */
function keyOf(host, adapter) {
  const name = Object.entries(softwareAdapters).find(([, pattern]) => pattern.test(adapter))?.[0];
  return name && `${host}/${name}`;
}

/** @template T @param {Record<string, T>} record */
function sorted(record) {
  return Object.fromEntries(Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1)));
}
