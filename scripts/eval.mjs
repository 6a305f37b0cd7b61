/** `npm run eval`: finds a GPU driver and runs demo/eval/eval.ts in Deno, or eval-node.ts in Node, with all arguments passed on. */
import { runProgram } from './hosts/programs.mjs';

await runProgram({ deno: 'demo/eval/eval.ts', node: 'eval-node' });
