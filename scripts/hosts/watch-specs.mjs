import { randomInt } from 'node:crypto';
import { specHosts } from './spec-hosts.mjs';

/** @typedef {import('../../test/harness/events.ts').HarnessEvent} HarnessEvent */

/** Grace beyond a spec's own limit, and the limit for everything between specs, in milliseconds. */
const grace = 30_000;
const idleLimit = 180_000;

/**
 * Runs specs in a host, which is stopped when nothing is heard of it for too long.
 *
 * @param {keyof typeof specHosts} hostName
 * @param {import('../../test/harness/events.ts').RunOptions} options
 * @param {{ onEvent(event: HarnessEvent, place: string): void, onLine(line: string): void }} watcher `place` is the driver or the browser
 * @param {string} [driver]
 * @returns {Promise<{ problem: string | undefined }>} why the host, not a spec, failed; undefined when all specs have run
 */
export async function watchSpecs(hostName, options, { onEvent, onLine }, driver) {
  let place = '';
  let current = '';
  let ended = false;
  /** @type {NodeJS.Timeout | undefined} */
  let timer;
  /** @type {(reason: Error) => void} */
  let giveUp = () => {};
  /** @type {Promise<never>} */
  const silence = new Promise((_, reject) => {
    giveUp = reject;
  });
  const expectEventWithin = (/** @type {number} */ milliseconds) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const where = current ? ` since "${current}" began` : '';
      giveUp(new Error(`nothing heard for ${milliseconds / 1000} s${where}; the host was stopped`));
    }, milliseconds);
  };
  expectEventWithin(idleLimit);
  try {
    const watcher = {
      onLine,
      onEvent: (/** @type {HarnessEvent} */ event) => {
        expectEventWithin(event.event === 'start' ? event.timeout + grace : idleLimit);
        if (event.event === 'start') current = event.name;
        ended ||= event.event === 'end';
        onEvent(event, place);
      },
    };
    const run = await Promise.race([silence, specHosts[hostName](options, watcher, driver)]);
    place = run.place;
    await Promise.race([silence, run.done]).finally(run.stop);
    return { problem: ended ? undefined : 'the host ended before the specs did' };
  } catch (error) {
    return { problem: error instanceof Error ? error.message : String(error) };
  } finally {
    clearTimeout(timer);
  }
}

/** @param {string} name @returns {name is keyof typeof specHosts} */
export function isHost(name) {
  return Object.hasOwn(specHosts, name);
}

/** The seed asked for, or one by chance. @param {string} [text] @returns {number} */
export function seedFrom(text) {
  const seed = text === undefined ? randomInt(2 ** 32) : Number(text);
  if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32) throw new Error('--seed is an integer from 0 to 4294967295.');
  return seed;
}
