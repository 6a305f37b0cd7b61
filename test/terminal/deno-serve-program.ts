/** The handler under `Deno.serve`, over an engine without a GPU. Prints its port. */
import { createHandler } from 'pagewise/serve';
import { fakeEngine } from '../unit/fake-engine.ts';

/** What is used of Deno, whose types the compiler does not know here. */
declare const Deno: {
  serve(
    options: { port: number; hostname: string; onListen(address: { port: number }): void },
    handler: (request: Request) => Promise<Response>,
  ): unknown;
};

const engine = fakeEngine();
const stats = () => ({ ...engine.stats(), running: engine.running(), waiting: 0 });
const handler = createHandler({ ...engine, stats }, { modelName: 'fake' });
Deno.serve({ port: 0, hostname: '127.0.0.1', onListen: ({ port }) => console.log(`port ${port}`) }, handler);
