import type { SpecFiles } from '../harness/spec.ts';

/** Every file of GPU specs; a new one is added here, under the name that its specs start with. */
export const specFiles: SpecFiles = {
  harness: () => import('./harness.spec.ts'),
  gpu: () => import('./gpu.spec.ts'),
  launch: () => import('./launch.spec.ts'),
  'launch-variants': () => import('./launch-variants.spec.ts'),
  'launch-errors': () => import('./launch-errors.spec.ts'),
  'launch-verify': () => import('./launch-verify.spec.ts'),
  'launch-arguments': () => import('./launch-arguments.spec.ts'),
  'launch-freeze': () => import('./launch-freeze.spec.ts'),
  'launch-loss': () => import('./launch-loss.spec.ts'),
  'launch-models': () => import('./launch-models.spec.ts'),
  reflect: () => import('./reflect.spec.ts'),
  trace: () => import('./trace.spec.ts'),
  'manifest-store': () => import('./manifest-store.spec.ts'),
  linear: () => import('./linear.spec.ts'),
  embed: () => import('./embed.spec.ts'),
  append: () => import('./append.spec.ts'),
  sample: () => import('./sample.spec.ts'),
  attention: () => import('./attention.spec.ts'),
  'attention-scores': () => import('./attention-scores.spec.ts'),
  'attention-steps': () => import('./attention-steps.spec.ts'),
  contiguous: () => import('./contiguous.spec.ts'),
  'merge-states': () => import('./merge-states.spec.ts'),
  engine: () => import('./engine.spec.ts'),
  parity: () => import('./parity.spec.ts'),
};
