/** `npm run tune`: finds a GPU driver and runs demo/terminal/tune.ts in Deno, or tune-node.ts in Node, with all arguments passed on. */
import { runProgram } from './hosts/programs.mjs';

await runProgram({ deno: 'demo/terminal/tune.ts', node: 'tune-node', writes: true });
