import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type BuildOptions, defineConfig, type Plugin, type UserConfig } from 'vite';

const root = fileURLToPath(new URL('.', import.meta.url));
const inRoot = (path: string) => join(root, path);

/** Packages that stay imports in the library, and that the browser gets from Vite as one module each. */
const external = [
  '@huggingface/jinja',
  '@huggingface/tokenizers',
  '@mlc-ai/web-xgrammar',
  'comlink',
  'valibot',
  'wgsl_reflect/wgsl_reflect.module.js',
];

const attribute = / with \{ type: 'text' \}/g;

/** Makes `import text from './name.wgsl' with { type: 'text' }` work: Vite knows neither the file type nor the attribute. */
function wgsl(): Plugin {
  return {
    name: 'wgsl',
    enforce: 'pre',
    transform(code, id) {
      const path = id.split('?')[0];
      if (path.endsWith('.wgsl')) return { code: `export default ${JSON.stringify(code)};`, map: null };
      // Blanks of the same length in the attribute's place, so that source maps stay right.
      if (/\.[jt]s$/.test(path) && code.search(attribute) >= 0)
        return { code: code.replaceAll(attribute, (text) => ' '.repeat(text.length)), map: null };
      return undefined;
    },
  };
}

/** Serves the files of a folder, byte for byte, under a path of the development server. */
function serveFolder(path: string, folder: string): Plugin {
  return {
    name: `serve ${path}`,
    configureServer(server) {
      server.middlewares.use(path, async (request, response) => {
        const file = resolve(folder, `.${decodeURIComponent((request.url ?? '/').split('?')[0])}`);
        const found = file.startsWith(resolve(folder) + sep) ? await stat(file).catch(() => undefined) : undefined;
        if (!found?.isFile()) return void response.writeHead(404).end();
        const type = file.endsWith('.json') ? 'application/json' : 'application/octet-stream';
        response.writeHead(200, { 'content-type': type, 'content-length': found.size, 'cache-control': 'no-cache' });
        if (request.method === 'HEAD') return void response.end();
        createReadStream(file).pipe(response);
      });
    },
  };
}

/** A bundle for Node in our cache folder; packages stay imports. */
function nodeBuild(name: string, entry: string): BuildOptions {
  return {
    ssr: inRoot(entry),
    outDir: inRoot(`node_modules/.cache/pagewise/${name}`),
    target: 'node20',
    sourcemap: true,
    minify: false,
    /** A spec file has nothing but side effects, and package.json denies them. */
    rolldownOptions: { treeshake: false },
  };
}

/** What each mode adds; `library` is the default of `vite build`. */
const modes: Record<string, UserConfig> = {
  /** The package: six entries, what they share in a chunk. */
  library: {
    build: {
      outDir: inRoot('dist'),
      emptyOutDir: false,
      minify: false,
      target: 'es2022',
      sourcemap: true,
      lib: {
        entry: {
          ...{ index: inRoot('src/index.ts'), engine: inRoot('src/engine/index.ts'), reflect: inRoot('src/reflect/index.ts') },
          ...{
            serve: inRoot('src/serve/index.ts'),
            constrained: inRoot('src/constrained/index.ts'),
            worker: inRoot('src/worker/index.ts'),
          },
        },
        formats: ['es'],
      },
      rolldownOptions: { external, output: { chunkFileNames: 'shared.js' } },
    },
  },
  /** The demonstration page: `npm start`, and its static build. */
  demo: {
    root: inRoot('demo/page'),
    base: './',
    plugins: [serveFolder('/model', inRoot('demo/model'))],
    build: {
      ...{ outDir: inRoot('dist/demo'), emptyOutDir: true, target: 'es2022', modulePreload: { polyfill: false } },
      rolldownOptions: {
        input: ['index.html', 'server.html', 'service-worker.ts'].map((name) => inRoot(`demo/page/${name}`)),
        // A service worker answers what is below its file, so that this one is beside the pages and keeps its name.
        output: { entryFileNames: ({ name }) => (name === 'service-worker' ? '[name].js' : 'assets/[name]-[hash].js') },
      },
    },
    optimizeDeps: { noDiscovery: true, include: ['@huggingface/jinja', '@huggingface/tokenizers', 'comlink', 'openai', 'valibot'] },
  },
  /** The GPU specs in a browser; nothing reloads the page while they run. */
  specs: {
    root,
    appType: 'mpa',
    plugins: [serveFolder('/repository', root)],
    server: { host: '127.0.0.1', hmr: false, watch: null },
    optimizeDeps: { noDiscovery: true, include: external },
  },
  /** The benches in a browser; isolated from other origins, its timer is exact to 5 microseconds instead of 100. */
  bench: {
    root,
    appType: 'mpa',
    plugins: [serveFolder('/repository', root)],
    server: {
      ...{ host: '127.0.0.1', hmr: false, watch: null },
      headers: { 'cross-origin-opener-policy': 'same-origin', 'cross-origin-embedder-policy': 'require-corp' },
    },
    optimizeDeps: { noDiscovery: true, include: [...external, 'protobufjs/minimal.js'] },
  },
  /** The same page, built, for a machine without Vite. */
  'bench-page': {
    base: './',
    build: {
      ...{ outDir: inRoot('node_modules/.cache/pagewise/bench-page'), emptyOutDir: true, target: 'esnext' },
      // onnxruntime-web's part comes when it is asked for, its WebAssembly as a file of its own.
      ...{ modulePreload: false, chunkSizeWarningLimit: 2000, rolldownOptions: { input: inRoot('bench/chromium.html') } },
    },
  },
  /** The GPU specs, the terminal program and the benches, for Node: bundled, since Node 20 reads neither TypeScript nor WGSL. */
  'specs-node': { build: nodeBuild('specs-node', 'test/harness/node.ts') },
  'generate-node': { build: nodeBuild('generate-node', 'demo/terminal/generate-node.ts') },
  'serve-node': { build: nodeBuild('serve-node', 'demo/terminal/serve-node.ts') },
  'tune-node': { build: nodeBuild('tune-node', 'demo/terminal/tune-node.ts') },
  'eval-node': { build: nodeBuild('eval-node', 'demo/eval/eval-node.ts') },
  'bench-node': { build: nodeBuild('bench-node', 'bench/node.ts') },
};

export default defineConfig(({ mode }) => {
  const { plugins = [], ...config } = modes[mode] ?? modes.library;
  return {
    root,
    clearScreen: false,
    publicDir: false,
    cacheDir: inRoot(`node_modules/.cache/pagewise/vite-${mode}`),
    resolve: {
      alias: [
        { find: /^pagewise\/engine$/, replacement: inRoot('src/engine/index.ts') },
        { find: /^pagewise\/reflect$/, replacement: inRoot('src/reflect/index.ts') },
        { find: /^pagewise\/constrained$/, replacement: inRoot('src/constrained/index.ts') },
        { find: /^pagewise\/worker$/, replacement: inRoot('src/worker/index.ts') },
        { find: /^pagewise\/serve$/, replacement: inRoot('src/serve/index.ts') },
        { find: /^pagewise$/, replacement: inRoot('src/index.ts') },
      ],
    },
    plugins: [wgsl(), plugins],
    worker: { format: 'es', plugins: () => [wgsl()] },
    ...config,
  };
});
