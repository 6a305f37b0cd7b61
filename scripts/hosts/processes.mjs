import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

/**
 * @typedef {object} WatchOptions
 * @property {NodeJS.ProcessEnv} [env] added to this process's environment
 * @property {string} [cwd]
 * @property {(line: string) => void} [onLine] called for each line of standard output (and of standard error, without `onErrorLine`)
 * @property {(line: string) => void} [onErrorLine]
 */

/** Makes this process leave through its exit handlers when it is interrupted or told to stop, so that no child outlives it. */
export function exitOnSignals() {
  process.once('SIGINT', () => process.exit(130));
  process.once('SIGTERM', () => process.exit(143));
}

/**
 * Starts a program and reads its lines. It is told to stop when this process exits; see `exitOnSignals`.
 *
 * @param {string} command
 * @param {readonly string[]} args
 * @param {WatchOptions} [options]
 * @returns {{ done: Promise<number>, kill(): void }} `kill` stops it, gently first; `done` gives the exit code, 128 after a signal, and rejects when it cannot be started.
 */
export function watchProcess(command, args, { env = {}, cwd, onLine = () => {}, onErrorLine = onLine } = {}) {
  const colors = process.stdout.isTTY ? { FORCE_COLOR: '1' } : { NO_COLOR: '1' };
  const child = spawn(command, args, { cwd, env: { ...process.env, ...colors, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  createInterface({ input: child.stdout }).on('line', onLine);
  createInterface({ input: child.stderr }).on('line', onErrorLine);
  const stop = () => void child.kill('SIGTERM');
  const kill = () => {
    stop();
    setTimeout(() => void child.kill('SIGKILL'), 5_000).unref();
  };
  process.once('exit', stop);
  /** @type {Promise<number>} */
  const done = new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => resolve(signal ? 128 : (code ?? 1)));
  });
  return { done: done.finally(() => process.removeListener('exit', stop)), kill };
}

/**
 * Runs a program on this process's own terminal, passes SIGINT and SIGTERM on, and gives its exit code.
 *
 * @param {string} command
 * @param {readonly string[]} args
 * @param {NodeJS.ProcessEnv} [env] added to this process's environment
 * @returns {Promise<number>}
 */
export function runInForeground(command, args, env = {}) {
  const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: 'inherit' });
  /** A terminal sends SIGINT to the child by itself: we only have to outlive it. @param {NodeJS.Signals} signal */
  const passOn = (signal) => void (process.stdin.isTTY && signal === 'SIGINT' ? undefined : child.kill(signal));
  for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM'])) process.on(signal, passOn);
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => {
      for (const name of /** @type {const} */ (['SIGINT', 'SIGTERM'])) process.removeListener(name, passOn);
      resolve(code ?? (signal === 'SIGINT' ? 130 : signal === 'SIGTERM' ? 143 : 1));
    });
  });
}
