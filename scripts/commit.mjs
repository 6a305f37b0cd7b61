import { execFileSync } from 'node:child_process';
import { root } from './hosts/folders.mjs';

/** The commit of the sources that a bench measures, and whether they have changed since; a copy without Git has none. */
export function currentCommit() {
  /** @param {...string} args */
  const git = (...args) => execFileSync('git', args, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  try {
    const changed = git('status', '--porcelain', '--', 'src', 'shaders', 'bench') !== '';
    return `${git('rev-parse', '--short', 'HEAD')}${changed ? ' and changes' : ''}`;
  } catch {
    return 'unknown';
  }
}
