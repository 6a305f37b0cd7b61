/**
 * Every error that Pagewise throws on purpose.
 *
 * One base class; each child takes the facts as fields and composes a message that says what is wrong and
 * what to do about it. Errors are thrown on cold paths only, and state is unchanged after a throw.
 */

/** The base class: `error instanceof PagewiseError` tells our errors from everybody else's. */
export class PagewiseError extends Error {
  override readonly name: string = 'PagewiseError';
}

/** No usable WebGPU: the API is missing, or it offers no adapter. */
export class WebGpuUnavailableError extends PagewiseError {
  override readonly name = 'WebGpuUnavailableError';
  constructor(
    readonly reason: 'no-api' | 'no-adapter' | 'device-refused',
    detail = '',
  ) {
    super(
      {
        'no-api':
          'This host has no WebGPU (navigator.gpu is missing). Use Chrome or Edge 113+, Firefox 141+, Safari 26+ over https or localhost, or Deno 2.9+.',
        'no-adapter':
          'WebGPU found no adapter. In a browser, enable hardware acceleration (or --enable-unsafe-webgpu for the software adapter); on Linux, install a Vulkan driver (Debian: mesa-vulkan-drivers).',
        'device-refused': 'The WebGPU adapter refused to open a device. Close other GPU programs or update the driver.',
      }[reason] + (detail ? ` (${detail})` : ''),
    );
  }
}

/** The device was lost (driver reset, GPU process crash, `destroy()`); everything made on it is gone. */
export class DeviceLostError extends PagewiseError {
  override readonly name = 'DeviceLostError';
  constructor(
    readonly reason: string,
    detail = '',
  ) {
    super(`The GPU device was lost (${reason}${detail ? `: ${detail}` : ''}). Open a new device and load the model again.`);
  }
}

/** Something needs more of a device limit than was granted. */
export class LimitExceededError extends PagewiseError {
  override readonly name = 'LimitExceededError';
  constructor(
    readonly what: string,
    readonly limit: string,
    readonly needed: number,
    readonly granted: number,
    readonly remedy: string,
  ) {
    super(`${what} needs ${limit} = ${needed}, but this device grants ${granted}. ${remedy}`);
  }
}

/** A value given by the caller is outside what is allowed. */
export class InvalidArgumentError extends PagewiseError {
  override readonly name = 'InvalidArgumentError';
  constructor(
    readonly argument: string,
    readonly value: unknown,
    readonly expected: string,
  ) {
    super(`${argument} is ${describe(value)}, but must be ${expected}.`);
  }
}

/** WGSL that the host's compiler refused; `source` is the joined text with line numbers. */
export class KernelCompileError extends PagewiseError {
  override readonly name = 'KernelCompileError';
  constructor(
    readonly kernel: string,
    readonly compilerMessage: string,
    readonly source: string,
  ) {
    super(`Kernel "${kernel}" does not compile: ${compilerMessage}\n${source}`);
  }
}

/** The caller's `scoreMod` or `maskMod` does not compile; `line` counts from 1 in that text. */
export class AttentionModificationError extends PagewiseError {
  override readonly name = 'AttentionModificationError';
  constructor(
    readonly modification: string,
    readonly line: number,
    readonly compilerMessage: string,
    readonly source: string,
    options?: ErrorOptions,
  ) {
    const at = source.split('\n')[line - 1]?.trim();
    super(`${modification}, line ${line}: ${compilerMessage}\n    ${at}`, options);
  }
}

/** A launch's arguments do not match the kernel's declaration, or a frozen one changed. */
export class LaunchArgumentError extends PagewiseError {
  override readonly name = 'LaunchArgumentError';
  constructor(
    readonly kernel: string,
    readonly argument: string,
    problem: string,
  ) {
    super(`Kernel "${kernel}", argument "${argument}": ${problem}`);
  }
}

/** WGSL text from which `pagewise/reflect` cannot derive a kernel as it is. */
export class ReflectionError extends PagewiseError {
  override readonly name = 'ReflectionError';
  constructor(
    readonly kernel: string,
    /** The name in the WGSL, or in the options, that is the cause. */
    readonly declaration: string,
    problem: string,
  ) {
    super(`Kernel "${kernel}", ${declaration}: ${problem}`);
  }
}

/** A frozen launch cache was asked for a variant that nobody prepared, and its policy is to throw. */
export class LaunchMissError extends PagewiseError {
  override readonly name = 'LaunchMissError';
  constructor(
    readonly kernel: string,
    readonly keys: Readonly<Record<string, unknown>>,
  ) {
    super(
      `Kernel "${kernel}" has no prepared variant for ${JSON.stringify(keys)}, and the launch cache is frozen. Prepare it before freeze(), or freeze with the policy "uncached" or "compile".`,
    );
  }
}

/** A launch would read or write a buffer that was destroyed. Nothing was recorded. */
export class BufferDestroyedError extends PagewiseError {
  override readonly name = 'BufferDestroyedError';
  constructor(
    readonly kernel: string,
    readonly argument: string,
  ) {
    super(
      `Kernel "${kernel}", argument "${argument}": the buffer was destroyed. Prepare the launch again with the buffer that took its place.`,
    );
  }
}

/** Nothing can be recorded any more, because the launch cache was destroyed. */
export class LaunchCacheDestroyedError extends PagewiseError {
  override readonly name = 'LaunchCacheDestroyedError';
  constructor() {
    super('The launch cache was destroyed. Open another, and prepare the launches with it.');
  }
}

/** The KV cache has no free block for the tokens asked for. Nothing was reserved. */
export class BlocksExhaustedError extends PagewiseError {
  override readonly name = 'BlocksExhaustedError';
  constructor(
    readonly needed: number,
    readonly free: number,
    readonly total: number,
  ) {
    super(
      `The KV cache needs ${needed} more blocks but has ${free} free of ${total}. Free a sequence, or open the cache with more blocks.`,
    );
  }
}

/** More sequences or tokens in one step than the plan was opened for. */
export class CapacityExceededError extends PagewiseError {
  override readonly name = 'CapacityExceededError';
  constructor(
    readonly what: string,
    readonly asked: number,
    readonly capacity: number,
    readonly option: string,
  ) {
    super(`${asked} ${what} asked for, but the capacity is ${capacity}. Raise the option "${option}", or split the work.`);
  }
}

/** The engine has as many requests waiting as it was told to keep. */
export class EngineBusyError extends PagewiseError {
  override readonly name = 'EngineBusyError';
  constructor(readonly waiting: number) {
    super(`${waiting} requests are waiting already, which is the option "maxWaiting". Try again later, or raise it.`);
  }
}

/** The engine was destroyed: what ran on it has ended, and nothing more can. */
export class EngineDestroyedError extends PagewiseError {
  override readonly name = 'EngineDestroyedError';
  constructor() {
    super('The engine was destroyed. Load the model again.');
  }
}

/** A chat template does not parse, or refuses the messages that it was given. */
export class ChatTemplateError extends PagewiseError {
  override readonly name = 'ChatTemplateError';
  constructor(problem: string, options?: ErrorOptions) {
    super(`The chat template ${problem}`, options);
  }
}

/** A sequence or prompt would not fit into the model's context. */
export class ContextLengthError extends PagewiseError {
  override readonly name = 'ContextLengthError';
  constructor(
    readonly tokens: number,
    readonly contextLength: number,
  ) {
    super(
      `The prompt has ${tokens} tokens, but the context holds ${contextLength} and one must be left for the answer. Shorten the prompt.`,
    );
  }
}

/**
 * A model file could not be fetched or read, or holds something else than it should.
 * `missing` tells a file that is not there from one that is there and wrong.
 */
export class ModelFileError extends PagewiseError {
  override readonly name = 'ModelFileError';
  readonly missing: boolean;
  constructor(
    readonly file: string,
    problem: string,
    options: ErrorOptions & { readonly missing?: boolean } = {},
  ) {
    super(`Model file ${file}: ${problem}`, options);
    this.missing = options.missing ?? false;
  }
}

/** The model's architecture, or an option in its config.json, is not implemented. */
export class UnsupportedModelError extends PagewiseError {
  override readonly name = 'UnsupportedModelError';
  constructor(
    readonly what: string,
    readonly supported: readonly string[],
  ) {
    super(`${what} is not supported. Supported: ${supported.join(', ')}.`);
  }
}

/** A schema, pattern or grammar that output cannot be held to, or output that does not follow it. */
export class ConstraintError extends PagewiseError {
  override readonly name = 'ConstraintError';
  constructor(
    readonly constraint: 'library' | 'schema' | 'regex' | 'grammar' | 'output',
    problem: string,
    options?: ErrorOptions,
  ) {
    super(`Constrained output, ${constraint}: ${problem}`, options);
  }
}

/** An engine in a worker can do no more: the worker failed, or was told to end. */
export class WorkerClosedError extends PagewiseError {
  override readonly name = 'WorkerClosedError';
  constructor(readonly reason: string) {
    super(`The engine in the worker is gone: ${reason}. Create another.`);
  }
}

function describe(value: unknown): string {
  return typeof value === 'string' ? JSON.stringify(value) : String(value);
}
