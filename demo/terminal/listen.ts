/** A port, by Node's HTTP server, which Deno has as well. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createRequestListener } from '@remix-run/node-fetch-server';
import type { Handler } from 'pagewise/serve';

/** An open port. */
export interface Listener {
  readonly port: number;
  /** Takes no more connections, and resolves when all answers are sent. */
  shutdown(): Promise<void>;
}

export interface Address {
  /** 0 = any free one. */
  readonly port: number;
  readonly host: string;
}

/**
 * Opens a port. Not by `Deno.serve`: that of Deno 2.9 does not notice that a client has gone away before an answer has begun, unless the whole request came in the
 * first 512 bytes.
 *
 * @throws when the port is taken, or the address is none of this machine's.
 */
export function listen(handler: Handler, { port, host }: Address): Promise<Listener> {
  const server = createServer(createRequestListener(handler));
  // Longer than clients and proxies keep a connection (Deno's and nginx' 90 and 60 s): who ends it first may cut off a request that is just being sent.
  server.keepAliveTimeout = 120_000;
  /** Answers that are still being written. */
  let answers = 0;
  let finish: (() => void) | undefined;
  // Connections that clients keep for later are not waited for: Deno counts them as busy, and some keep theirs for minutes.
  const finishIfDone = () => {
    if (!finish || answers > 0) return;
    server.closeAllConnections();
    finish();
  };
  server.on('request', (_, answer) => {
    answers++;
    answer.once('close', () => {
      answers--;
      finishIfDone();
    });
  });
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, () => {
      const shutdown = () =>
        new Promise<void>((done) => {
          finish = done;
          server.close();
          finishIfDone();
        });
      resolve({ port: (server.address() as AddressInfo).port, shutdown });
    });
  });
}
