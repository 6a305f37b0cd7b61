/** What a run of GPU specs tells whoever watches it: one JSON object each, in this order of `event`. */
export type HarnessEvent =
  | {
      readonly event: 'host';
      readonly host: HostName;
      readonly runtime: string;
      readonly adapter: string;
      readonly features: readonly string[];
      /** Runs of specs to come, the skipped ones among them. */
      readonly runs: number;
    }
  | { readonly event: 'start'; readonly name: string; readonly timeout: number }
  | { readonly event: 'log'; readonly name: string; readonly line: string }
  | { readonly event: 'pass'; readonly name: string; readonly milliseconds: number }
  | { readonly event: 'fail'; readonly name: string; readonly milliseconds: number; readonly message: string }
  | { readonly event: 'skip'; readonly name: string; readonly missing: string }
  | { readonly event: 'list'; readonly names: readonly string[] }
  | { readonly event: 'end'; readonly passed: number; readonly failed: number; readonly skipped: number };

export type HostName = 'chromium' | 'deno' | 'node';

/** `granted`: a device with all the useful limits of the adapter. `default`: one with WebGPU's default limits. */
export type Variant = 'granted' | 'default';

/** What to run; as JSON it is an argument of the Deno and Node hosts and a parameter of the Chromium one. */
export interface RunOptions {
  /** Only specs whose full name contains this text. */
  readonly filter?: string;
  /** Only these spec files: keys of `test/gpu/all.ts`. */
  readonly files?: readonly string[];
  /** Only devices of this kind. */
  readonly variant?: Variant;
  /** Specs that run on both kinds of devices: on the one with default limits alone; and, without `full`, none that are `hostIndependent`. */
  readonly once?: boolean;
  /** Also run the specs marked `full`. */
  readonly full?: boolean;
  /** What random cases are made from; default 1. */
  readonly seed?: number;
  /** Print the names and run nothing. */
  readonly list?: boolean;
}
