/** What was measured on adapters and ships with the library, where nothing was tuned. Pure. */
import type { AdapterDescription } from '../gpu.ts';
import type { Split } from './plan.ts';

export interface AdapterDefaults extends Required<Split> {
  /** Most invocations that a workgroup should have. */
  readonly maxInvocations: number;
}

/**
 * The first whose pattern fits decides; the text is an adapter's names, and the word `software` where it computes on the CPU.
 *
 * SwiftShader gives each SIMD group of a workgroup with barriers a stack of its own, about 8 us for every four invocations, which costs
 * more than short tiles do. The last line is of NVIDIA's H200 and H100.
 */
const shipped: readonly (AdapterDefaults & { readonly adapter: RegExp })[] = [
  { adapter: /swiftshader/i, maxInvocations: 8, targetWorkgroups: 512, minSegmentKeys: 256, unsplitKeys: 256, leastWorkgroups: 0 },
  { adapter: /\bsoftware$/, maxInvocations: 64, targetWorkgroups: 512, minSegmentKeys: 256, unsplitKeys: 256, leastWorkgroups: 0 },
  { adapter: /^/, maxInvocations: 256, targetWorkgroups: 512, minSegmentKeys: 128, unsplitKeys: 256, leastWorkgroups: 256 },
];

export function adapterDefaults({ vendor, architecture, device, description, software }: AdapterDescription): AdapterDefaults {
  const text = [vendor, architecture, device, description, software ? 'software' : ''].join(' ');
  return shipped.find(({ adapter }) => adapter.test(text)) ?? shipped[shipped.length - 1];
}

/** Invocations of a workgroup that merges partial states. */
export function mergeInvocations(maxInvocations: number): number {
  return maxInvocations < 128 ? 64 : 256;
}
