/** Pagewise: paged attention for WebGPU, and the launch cache that it runs on. Has no runtime dependency. */
export { PagedAttention } from './attention/attention.ts';
export { BlockPool } from './attention/blocks.ts';
export {
  type AttentionBuffer,
  type AttentionOptions,
  type AttentionResult,
  attention,
} from './attention/contiguous.ts';
export { KvCache, type KvCacheOptions, kvCacheBytes, type Sequence } from './attention/kv-cache.ts';
export { type KvDtype, type KvLayout, type KvScales, kvDtypes } from './attention/layout.ts';
export { type AttentionState, type MergeStatesOptions, prepareMergeStates, type StateMerge } from './attention/merge-states.ts';
export type { AttentionModifications } from './attention/modifications.ts';
export type { BatchEntry, LayerAttention, LayerOptions, LayerScalars, PagedAttentionOptions } from './attention/options.ts';
export type { Cascade, Split } from './attention/plan.ts';
export type { DecodeTile } from './attention/tiles/decode.ts';
export type { MatrixDecodeTile, MatrixPrefillTile } from './attention/tiles/matrix.ts';
export type { PrefillTile } from './attention/tiles/prefill.ts';
export {
  type AttentionShape,
  indexedDbTunings,
  type TunedSplit,
  type Tuning,
  type TuningEntry,
  type TuningOrigin,
  type TuningStore,
  textTunings,
  tuningKey,
} from './attention/tuned.ts';
export { type TunedPart, type TuneOptions, type TuneProgress, type TuneResult, tune, tuneOnce } from './attention/tuner.ts';
export type { Workload } from './attention/workload.ts';
export * from './errors.ts';
export { type AdapterDescription, type Gpu, gpuFromDevice, type OpenGpuOptions, openGpu } from './gpu.ts';
export { LaunchCache } from './launch/cache.ts';
export type { JsonStore, JsonStoreOptions, TextFiles } from './launch/json-store.ts';
export {
  type AnyKernel,
  type ArgumentDeclaration,
  type ArgumentPath,
  type ArgumentsOf,
  type BufferArgument,
  bucket,
  cappedCount,
  defineKernel,
  frozen,
  gridCount,
  indirectGrid,
  type Kernel,
  key,
  perCall,
  readBuffer,
  swappable,
  writeBuffer,
} from './launch/kernel.ts';
export type { LaunchManifest } from './launch/manifest.ts';
export { indexedDbManifests, type ManifestStore, manifestKey, textManifests } from './launch/manifest-store.ts';
export type { LaunchCacheMode, LaunchCacheOptions, LaunchCounts, LaunchEvent, LaunchStats, MissPolicy } from './launch/options.ts';
export type { LaunchSite } from './launch/site.ts';
export { type ChromeTrace, type OpenSpan, type TraceEvent, Tracer } from './launch/trace.ts';
export type { FalseHit } from './launch/verify.ts';
export { version } from './version.ts';
