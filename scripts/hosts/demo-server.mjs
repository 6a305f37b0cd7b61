import { join } from 'node:path';
import { createServer } from 'vite';
import { root } from './folders.mjs';

/** Serves the demonstration page to a browser on this machine. @returns {Promise<{ url: string, close(): Promise<void> }>} */
export async function serveDemo() {
  const server = await createServer({
    configFile: join(root, 'vite.config.ts'),
    mode: 'demo',
    logLevel: 'warn',
    server: { host: '127.0.0.1', hmr: false, watch: null },
  });
  await server.listen();
  const address = /** @type {import('node:net').AddressInfo} */ (server.httpServer?.address());
  return { url: `http://127.0.0.1:${address.port}/`, close: () => server.close() };
}
