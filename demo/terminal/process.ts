/** What the terminal programs have in common: how they are interrupted, how they fail, and how they end. */
import process from 'node:process';
import { PagewiseError } from 'pagewise';

const interruptedCode = 130;

/** Runs `main`, says in a line what it throws, and ends the process with its exit code. The first interrupt aborts the signal, the second ends at once. */
export async function runToExit(main: (signal: AbortSignal) => Promise<void>): Promise<void> {
  const interrupt = new AbortController();
  process.on('SIGINT', () => {
    if (interrupt.signal.aborted) process.exit(interruptedCode);
    interrupt.abort();
  });
  // Whoever reads our output has gone (`| head`): there is nobody left to write for.
  process.stdout.on('error', () => process.exit(0));
  let code: number;
  try {
    await main(interrupt.signal);
    code = interrupt.signal.aborted ? interruptedCode : 0;
  } catch (error) {
    code = interrupt.signal.aborted ? interruptedCode : 1;
    if (!interrupt.signal.aborted) say(describeFailure(error));
  }
  for (const stream of [process.stdout, process.stderr]) await new Promise((done) => stream.write('', done));
  process.exit(code);
}

/** What a program says at its end of an error. One line; with PAGEWISE_DEBUG set, also where it came from. */
export function describeFailure(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  const firstLine = message.split('\n', 1)[0];
  if (process.env.PAGEWISE_DEBUG) return `pagewise: ${error instanceof Error ? (error.stack ?? message) : message}`;
  if (error instanceof PagewiseError) return `pagewise: ${firstLine}`;
  return `pagewise: unexpected error: ${firstLine}. Set PAGEWISE_DEBUG=1 to see where, and please report it.`;
}

/** A line on standard error. */
export function say(line: string): void {
  process.stderr.write(`${line}\n`);
}
