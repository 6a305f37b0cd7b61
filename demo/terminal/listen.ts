/** A port in Deno. */
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

/** What is used of Deno, whose types the compiler does not know here. */
declare const Deno: {
  serve(
    options: { port: number; hostname: string; onListen(address: { port: number }): void },
    handler: (request: Request) => Promise<Response>,
  ): { shutdown(): Promise<void> };
};

/** Rejects when the port is taken, or no address of this machine's. */
export function listenInDeno(handler: Handler, { port, host }: Address): Promise<Listener> {
  return new Promise((resolve) => {
    const server = Deno.serve(
      { port, hostname: host, onListen: (address) => resolve({ port: address.port, shutdown: () => server.shutdown() }) },
      handler,
    );
  });
}
