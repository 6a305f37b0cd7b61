/** Scores and masks in WGSL of your own. `deno run -A examples/attention/modifications.ts` */
import { type AttentionModifications, openGpu } from 'pagewise';
import { largestDifference } from './session.ts';
import { seen, weightsOf } from './weights.ts';

const gpu = await openGpu();
const scores = [1, 3, 0, 2, -1, 4, 1, 0];

// ALiBi, as the option `alibi` has it.
const alibi: AttentionModifications = {
  scoreMod: `fn scoreMod(score: f32, head: u32, query: u32, key: u32, token: u32) -> f32 {
    return score + modData(head) * (f32(key) - f32(query));
  }`,
};
const byMod = await weightsOf(gpu, scores, { modifications: alibi, data: [0.5] });
const byOption = await weightsOf(gpu, scores, { alibi: { slopes: [0.5] } });
console.log(`ALiBi: as the option does, ${largestDifference(byMod.flat(), byOption.flat()) < 1e-6}`);

// A softcap whose cap is a value of the call: another one compiles nothing.
const softcap: AttentionModifications = {
  scoreMod: `fn scoreMod(score: f32, head: u32, query: u32, key: u32, token: u32) -> f32 {
    return args.cap * tanh(clamp(score / args.cap, -10.0, 10.0));
  }`,
  scalars: { cap: 'f32' },
};
for (const cap of [1, 2]) {
  const mod = await weightsOf(gpu, scores, { modifications: softcap, scalars: { cap } });
  const option = await weightsOf(gpu, scores, { softcap: cap });
  console.log(`softcap ${cap}: as the option does, ${largestDifference(mod.flat(), option.flat()) < 1e-4}`);
}

// Documents that were packed into one sequence: modData(i) is the document of token i.
const documents: AttentionModifications = {
  maskMod: `fn maskMod(head: u32, query: u32, key: u32, token: u32) -> bool {
    return modData(query) == modData(key);
  }`,
};
const packed = await weightsOf(gpu, scores, { modifications: documents, data: [0, 0, 0, 1, 1, 2, 2, 2] });
console.log(`documents: ${packed.map((row) => seen(row).join('')).join(' ')}`);

// A prefix of which every token sees every other; what follows is causal.
const prefix: AttentionModifications = {
  maskMod: `fn maskMod(head: u32, query: u32, key: u32, token: u32) -> bool {
    return key < args.prefix || key <= query;
  }`,
  scalars: { prefix: 'u32' },
};
const prefixed = await weightsOf(gpu, scores, { causal: false, modifications: prefix, scalars: { prefix: 3 } });
console.log(`prefix: ${prefixed.map((row) => seen(row).join('')).join(' ')}`);

// Every second key of a window.
const dilated: AttentionModifications = {
  maskMod: `fn maskMod(head: u32, query: u32, key: u32, token: u32) -> bool {
    return (query - key) % args.step == 0u;
  }`,
  scalars: { step: 'u32' },
};
const sparse = await weightsOf(gpu, scores, { window: 5, modifications: dilated, scalars: { step: 2 } });
console.log(`dilated: ${sparse.map((row) => seen(row).join('')).join(' ')}`);
gpu.destroy();
