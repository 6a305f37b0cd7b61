/** The page's side: an engine that lives in a worker, with the interface of one that does not. */
import * as Comlink from 'comlink';
import type { ModelConfig } from '../engine/config.ts';
import type { GenerationDefaults } from '../engine/generation-config.ts';
import type { EngineStats, Generation, LoadProgress } from '../engine/types.ts';
import { type DeviceLostError, InvalidArgumentError } from '../errors.ts';
import type { AdapterDescription, OpenGpuOptions } from '../gpu.ts';
import type { LaunchManifest } from '../launch/manifest.ts';
import type { LaunchEvent, LaunchStats } from '../launch/options.ts';
import { type Outcome, reviveError, unwrap } from './errors.ts';
import { Link, type WorkerLike } from './link.ts';
import { PortGeneration, type WorkerGenerateOptions } from './port-generation.ts';
import {
  type Batch,
  type BlockSnapshot,
  type OpenedEngine,
  openMessage,
  type PostableEngineOptions,
  type WorkerEvent,
  type WorkerFiles,
} from './protocol.ts';

/** As `EngineOptions`; functions are called in the page. There are no traces across a worker's border. */
export interface WorkerEngineOptions extends PostableEngineOptions {
  /** How the worker opens its device. */
  readonly gpu?: Omit<OpenGpuOptions, 'gpu'>;
  readonly onProgress?: (progress: LoadProgress) => void;
  readonly onTuningProblem?: (problem: string) => void;
  readonly onLaunchEvent?: (event: LaunchEvent) => void;
  readonly signal?: AbortSignal;
}

/**
 * An engine in a worker. Its methods are those of `Engine`; what `Engine` gives at once, though the worker has to be asked, is a promise here. Errors
 * are of the same classes, with the same fields.
 */
export interface WorkerEngine extends OpenedEngine {
  /** Resolves when the worker's device is lost, unless by `destroy`. */
  readonly lost: Promise<DeviceLostError>;
  /** The KV cache's blocks as they were when a generation's chunks last came. */
  readonly blocks: BlockSnapshot;
  /**
   * As `Engine.generate`, but bad options and prompts reject the iteration and `result`; a function among the options throws at once. `promptIds` of what is
   * returned is empty, and `stats` zero, until the worker has answered.
   */
  generate(prompt: string | readonly number[], options?: WorkerGenerateOptions): Generation;
  score(ids: readonly number[]): Promise<number[]>;
  logits(ids: readonly number[]): Promise<Float32Array>;
  encode(text: string): Promise<number[]>;
  decode(ids: readonly number[]): Promise<string>;
  stats(): Promise<EngineStats>;
  launchStats(): Promise<LaunchStats>;
  manifest(): Promise<LaunchManifest>;
  /** Frees the engine and its device. The worker stays: it is the caller's, to terminate or to open another engine in. */
  destroy(): void;
}

/**
 * Opens an engine in a worker whose script calls `serveEngine`. The page's thread only receives text, so that it never freezes.
 *
 * @param worker a dedicated worker of the caller's.
 * @param files the URL of a folder, which a relative one counts from the page, or files by their names.
 * @throws as `openGpu` and `Engine.load`. @throws {WorkerClosedError} when the worker fails.
 */
export async function createWorkerEngine(worker: WorkerLike, files: WorkerFiles, options: WorkerEngineOptions = {}): Promise<WorkerEngine> {
  const { onProgress, onTuningProblem, onLaunchEvent, signal, gpu = {}, ...engine } = options;
  signal?.throwIfAborted();
  const { port1, port2 } = new MessageChannel();
  const link = new Link(worker, port1);
  let reportLoss: (error: DeviceLostError) => void;
  const lost = new Promise<DeviceLostError>((resolve) => {
    reportLoss = resolve;
  });
  const hear = (event: WorkerEvent): void => {
    if (event.event === 'progress') onProgress?.(event.progress);
    else if (event.event === 'tuning-problem') onTuningProblem?.(event.problem);
    else if (event.event === 'launch') onLaunchEvent?.(event.launch);
    else reportLoss(reviveError(event.error) as DeviceLostError);
  };
  const abort = (): void => void link.service.abortOpening();
  signal?.addEventListener('abort', abort, { once: true });
  try {
    worker.postMessage(openMessage, [port2]);
    const request = { files: postableFiles(files), gpu, engine };
    const opened = unwrap(await link.ask(link.service.open(request, Comlink.proxy(hear)) as Promise<Outcome<OpenedEngine>>));
    return new PortEngine(link, opened, lost);
  } catch (error) {
    link.close('it could not be opened');
    signal?.throwIfAborted(); // with the signal's own reason
    throw error;
  } finally {
    signal?.removeEventListener('abort', abort);
  }
}

/** A relative URL counts from the page, not from the worker's script. */
function postableFiles(files: WorkerFiles): Exclude<WorkerFiles, URL> {
  if (typeof files !== 'string' && !(files instanceof URL)) return files;
  const url = URL.parse(files, globalThis.document?.baseURI ?? globalThis.location?.href);
  if (!url) throw new InvalidArgumentError('files', String(files), 'the URL of a folder, such as "https://example.org/model/"');
  return url.href;
}

class PortEngine implements WorkerEngine {
  readonly adapter: AdapterDescription;
  readonly config: ModelConfig;
  readonly defaults: GenerationDefaults;
  readonly contextLength: number;
  readonly maxTokensPerStep: number;
  readonly weightBytes: number;
  readonly runAhead: number;
  readonly hasTokenizer: boolean;
  readonly lost: Promise<DeviceLostError>;
  readonly #link: Link;
  #blocks: BlockSnapshot;
  #next = 0;

  constructor(link: Link, opened: OpenedEngine, lost: Promise<DeviceLostError>) {
    this.#link = link;
    this.lost = lost;
    this.adapter = opened.adapter;
    this.config = opened.config;
    this.defaults = opened.defaults;
    this.contextLength = opened.contextLength;
    this.maxTokensPerStep = opened.maxTokensPerStep;
    this.weightBytes = opened.weightBytes;
    this.runAhead = opened.runAhead;
    this.hasTokenizer = opened.hasTokenizer;
    this.#blocks = opened.blocks;
  }

  get blocks(): BlockSnapshot {
    return this.#blocks;
  }

  generate(prompt: string | readonly number[], options: WorkerGenerateOptions = {}): Generation {
    const bad = Object.entries(options).find(([, value]) => typeof value === 'function');
    if (bad)
      throw new InvalidArgumentError(
        bad[0],
        'a function',
        'left out: functions cannot be posted. Pass "constraint", and "constrain" to serveEngine',
      );
    const onBatch = ({ blocks }: Batch): void => {
      this.#blocks = blocks;
    };
    return new PortGeneration(this.#link, this.#next++, prompt, options, onBatch);
  }

  score(ids: readonly number[]): Promise<number[]> {
    return this.#value(this.#link.service.score(ids));
  }

  logits(ids: readonly number[]): Promise<Float32Array> {
    return this.#value(this.#link.service.logits(ids));
  }

  encode(text: string): Promise<number[]> {
    return this.#value(this.#link.service.encode(text));
  }

  decode(ids: readonly number[]): Promise<string> {
    return this.#value(this.#link.service.decode(ids));
  }

  stats(): Promise<EngineStats> {
    return this.#value(this.#link.service.stats());
  }

  launchStats(): Promise<LaunchStats> {
    return this.#value(this.#link.service.launchStats());
  }

  manifest(): Promise<LaunchManifest> {
    return this.#value(this.#link.service.manifest());
  }

  destroy(): void {
    this.#link.close('it was destroyed');
  }

  async #value<T>(answer: Promise<Outcome<T>>): Promise<T> {
    return unwrap(await this.#link.ask(answer));
  }
}
