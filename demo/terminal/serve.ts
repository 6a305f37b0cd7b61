/** `npm run serve` in Deno. */
import { fileURLToPath } from 'node:url';
import { runServeProgram } from './serve-program.ts';

/** What is used of Deno, whose types the compiler does not know here. */
declare const Deno: {
  serve(
    options: { port: number; hostname: string; onListen(address: { port: number }): void },
    handler: (request: Request) => Promise<Response>,
  ): { shutdown(): Promise<void> };
};

const path = (relative: string) => fileURLToPath(new URL(relative, import.meta.url));
await runServeProgram({
  defaultModel: path('../model'),
  defaultName: 'pagewise-stories',
  tunings: path('../../node_modules/.cache/pagewise/tunings'),
  listen: (handler, { port, host }) =>
    new Promise((resolve) => {
      // What it throws, when the port is taken, rejects the promise.
      const server = Deno.serve(
        { port, hostname: host, onListen: (address) => resolve({ port: address.port, shutdown: () => server.shutdown() }) },
        handler,
      );
    }),
});
