import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname, join, resolve, sep } from 'node:path';
import { root } from './folders.mjs';

/**
 * Serves the page of the benches, isolated from other origins: from the sources, by Vite, or as `npm run bench:page` built it, by Node alone.
 *
 * @param {string} [built] the folder of the built page
 * @returns {Promise<{ url: string, close(): Promise<unknown> }>}
 */
export async function serveBenchPage(built) {
  const server = built === undefined ? await fromSources() : await fromFolder(built);
  return { url: `http://127.0.0.1:${server.port}/bench/chromium.html`, close: server.close };
}

async function fromSources() {
  const vite = await import('vite');
  const server = await vite.createServer({ root, configFile: join(root, 'vite.config.ts'), mode: 'bench', logLevel: 'warn' });
  await server.listen();
  return { port: portOf(server.httpServer), close: () => server.close() };
}

const types = { '.html': 'text/html', '.js': 'text/javascript', '.json': 'application/json', '.wasm': 'application/wasm' };

/** @param {string} folder */
async function fromFolder(folder) {
  const server = createServer(async (request, response) => {
    const path = decodeURIComponent((request.url ?? '/').split('?')[0]);
    // As Vite's server does, the repository's own files under a path of theirs.
    const [from, rest] = path.startsWith('/repository/') ? [root, path.slice('/repository'.length)] : [resolve(folder), path];
    const file = resolve(from, `.${rest}`);
    const found = file.startsWith(from.endsWith(sep) ? from : from + sep) ? await stat(file).catch(() => undefined) : undefined;
    if (!found?.isFile()) return void response.writeHead(404).end();
    response.writeHead(200, {
      'content-type': types[/** @type {keyof typeof types} */ (extname(file))] ?? 'application/octet-stream',
      'content-length': found.size,
      'cross-origin-opener-policy': 'same-origin',
      'cross-origin-embedder-policy': 'require-corp',
    });
    createReadStream(file).pipe(response);
  });
  await new Promise((ready) => server.listen(0, '127.0.0.1', () => ready(undefined)));
  return { port: portOf(server), close: async () => server.close() };
}

/** @param {{ address(): import('node:net').AddressInfo | string | null } | null} server */
function portOf(server) {
  const address = server?.address();
  if (typeof address !== 'object' || !address) throw new Error('the server has no port');
  return address.port;
}
