/**
 * `npm run test:parity-full`: the shipped model against its golden tokens, logits and likelihoods on every host, with every KV dtype,
 * run-ahead depth and launch-cache mode. Takes up to an hour on a software adapter. `--host deno|node|chromium` runs one host.
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { root } from './hosts/folders.mjs';

const { values } = parseArgs({ options: { host: { type: 'string', multiple: true, default: ['deno', 'node', 'chromium'] } } });
let failed = 0;
for (const host of values.host) {
  const args = [join(root, 'scripts/test-gpu.mjs'), '--host', host, '--file', 'parity', '--full'];
  const { status } = spawnSync(process.execPath, args, { stdio: 'inherit' });
  if (status !== 0) failed++;
}
console.log(`hosts: ${values.host.length - failed} passed, ${failed} failed`);
process.exitCode = failed ? 1 : 0;
