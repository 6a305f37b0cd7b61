/** What page and worker say to each other. */

import type { ModelConfig } from '../engine/config.ts';
import type { EngineOptions } from '../engine/engine-options.ts';
import type { GenerationDefaults } from '../engine/generation-config.ts';
import type { EngineStats, GenerateOptions, GenerationChunk, GenerationResult, GenerationStats, LoadProgress } from '../engine/types.ts';
import type { AdapterDescription, OpenGpuOptions } from '../gpu.ts';
import type { LaunchManifest } from '../launch/manifest.ts';
import type { LaunchEvent, LaunchStats } from '../launch/options.ts';
import type { ErrorData, Outcome } from './errors.ts';

/** Posted to a worker, with a port, to open an engine there. */
export const openMessage = 'pagewise: open an engine';

/** Where a worker gets model files: under a URL, or from files by their names. */
export type WorkerFiles = string | URL | { readonly description: string; readonly files: Readonly<Record<string, Blob>> };

/** Options of an engine that can be posted. */
export type PostableEngineOptions = Omit<EngineOptions, 'onProgress' | 'onTuningProblem' | 'onLaunchEvent' | 'trace' | 'signal'>;

/** What the page asks for. */
export interface OpenRequest {
  readonly files: Exclude<WorkerFiles, URL>;
  readonly gpu: Omit<OpenGpuOptions, 'gpu'>;
  readonly engine: PostableEngineOptions;
}

/** What does not change once an engine is open. */
export interface OpenedEngine {
  readonly adapter: AdapterDescription;
  readonly config: ModelConfig;
  readonly defaults: GenerationDefaults;
  readonly contextLength: number;
  readonly maxTokensPerStep: number;
  readonly weightBytes: number;
  readonly runAhead: number;
  readonly hasTokenizer: boolean;
  readonly blocks: BlockSnapshot;
}

/** What the worker tells by itself. */
export type WorkerEvent =
  | { readonly event: 'progress'; readonly progress: LoadProgress }
  | { readonly event: 'tuning-problem'; readonly problem: string }
  | { readonly event: 'launch'; readonly launch: LaunchEvent }
  | { readonly event: 'lost'; readonly error: ErrorData };

/** The KV cache's blocks at one moment. */
export interface BlockSnapshot {
  /** Blocks, the null block included. */
  readonly size: number;
  readonly blockSize: number;
  readonly sequences: readonly { readonly blocks: readonly number[]; readonly length: number }[];
}

/** A generation's request, as far as it can be posted: functions and signals stay in the page. */
export type PostableGenerateOptions = Omit<GenerateOptions, 'signal' | 'allowedTokens'> & {
  /** Anything that can be posted: the worker's `ServeOptions.constrain` makes `allowedTokens` of it. */
  readonly constraint?: unknown;
};

/** Chunks of a generation, and what else is known by then. */
export interface Batch {
  /** The first chunk's place among all of the generation's: answers may overtake each other. */
  readonly first: number;
  readonly chunks: readonly GenerationChunk[];
  readonly stats: GenerationStats;
  readonly blocks: BlockSnapshot;
}

/** The worker's side, as the page calls it. Generations go by numbers that the page chooses. */
export interface EngineService {
  open(request: OpenRequest, tell: (event: WorkerEvent) => void): Promise<Outcome<OpenedEngine>>;
  /** Ends a loading that is under way. */
  abortOpening(): void;
  /** Begins a generation and gives its prompt's ids. */
  generate(id: number, prompt: string | readonly number[], options: PostableGenerateOptions): Promise<Outcome<readonly number[]>>;
  /** Chunks that came since the last call; waits while there are none, and gives none once all are given. */
  next(id: number): Promise<Batch>;
  /** Waits for the end, gives the chunks that nobody asked for, and forgets the generation. */
  result(id: number): Promise<{ readonly outcome: Outcome<GenerationResult>; readonly rest: Batch }>;
  abort(id: number): void;
  score(ids: readonly number[]): Promise<Outcome<number[]>>;
  logits(ids: readonly number[]): Promise<Outcome<Float32Array<ArrayBuffer>>>;
  encode(text: string): Promise<Outcome<number[]>>;
  decode(ids: readonly number[]): Promise<Outcome<string>>;
  stats(): Promise<Outcome<EngineStats>>;
  launchStats(): Promise<Outcome<LaunchStats>>;
  manifest(): Promise<Outcome<LaunchManifest>>;
  close(): void;
}
