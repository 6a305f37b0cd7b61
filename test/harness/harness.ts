/**
 * What a GPU spec imports. A spec file is a list of `spec(name, run, options)`; `test/gpu/all.ts` names the files,
 * and the hosts (deno.ts, node.ts, chromium.ts) run each spec on a device with granted limits and on one with default limits.
 */
export { ExpectationError, expect, expectClose, expectEqual, expectThrows, type Tolerance } from './assert.ts';
export { emptyBuffer, readBuffer, readFloats, uploadBuffer } from './buffers.ts';
export type { HostName, Variant } from './events.ts';
export { type Random, random } from './random.ts';
export { type SpecContext, type SpecOptions, spec } from './spec.ts';
