/** `npm start`: serves the demonstration page until it is interrupted. See `--help`. */
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { createServer } from 'vite';
import { root } from './hosts/folders.mjs';

const { values } = parseArgs({
  options: {
    port: { type: 'string', default: '5173' },
    host: { type: 'string', default: 'localhost' },
    help: { type: 'boolean', short: 'h' },
  },
});
if (values.help) {
  console.log('Usage: npm start -- [--port NUMBER] [--host NAME]\n\nBrowsers offer WebGPU on localhost and over https only.');
} else {
  const server = await createServer({
    configFile: join(root, 'vite.config.ts'),
    mode: 'demo',
    server: { port: Number(values.port), host: values.host },
  });
  await server.listen();
  console.log('The Pagewise demonstration, until Ctrl-C:');
  server.printUrls();
}
