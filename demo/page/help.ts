/**
 * What to do in a browser without WebGPU, per browser. After the implementation status at
 * https://github.com/gpuweb/gpuweb/wiki/Implementation-Status (April 2026).
 */

/** Advice for one family of browsers. */
export interface BrowserAdvice {
  readonly browser: string;
  /** What to type or look for stands between backticks. */
  readonly advice: string;
}

/** Where a page runs, as far as the advice depends on it. */
export interface BrowserFacts {
  readonly userAgent: string;
  /** Browsers keep WebGPU from pages that came over plain http. */
  readonly secure: boolean;
  /** `navigator.gpu` is there, but gave no adapter or no device. */
  readonly hasApi: boolean;
}

const chromium: BrowserAdvice = {
  browser: 'Chrome, Edge and other Chromium browsers',
  advice:
    'Use version 113 or later (Android: 121). In Settings, System, switch on “Use graphics acceleration when available”, and restart. ' +
    '`chrome://gpu` says what is missing.',
};

const chromiumOnLinux: BrowserAdvice = {
  browser: 'Chrome, Edge and Chromium on Linux',
  advice:
    'Version 144 offers WebGPU on recent Intel GPUs, 147 on NVIDIA with driver 535.183 or later. Elsewhere set `chrome://flags/#enable-unsafe-webgpu` ' +
    'and `chrome://flags/#enable-vulkan` to Enabled, or start the browser with `--enable-unsafe-webgpu` and `--enable-features=Vulkan`. ' +
    'A Vulkan driver must be installed (Debian: `mesa-vulkan-drivers`).',
};

const firefox: BrowserAdvice = {
  browser: 'Firefox',
  advice:
    'Use version 141 or later on Windows, 147 or later on a Mac with Apple silicon. On Linux use Firefox Nightly, or set `dom.webgpu.enabled` to true in `about:config`.',
};

const safari: BrowserAdvice = {
  browser: 'Safari',
  advice:
    'Use Safari 26 or later (macOS, iOS and iPadOS 26). In Safari 18, switch on WebGPU under Settings, Feature Flags (iOS: Settings, Apps, Safari, Advanced).',
};

const secureContext: BrowserAdvice = {
  browser: 'This address',
  advice: 'The page came over plain http from another machine. Browsers offer WebGPU on https and on localhost only: open it there.',
};

/** The advice for this browser first, then that for the others. */
export function webGpuAdvice({ userAgent, secure, hasApi }: BrowserFacts): readonly BrowserAdvice[] {
  const linux = /Linux|X11|CrOS/.test(userAgent) && !/Android/.test(userAgent);
  const families: readonly (readonly [RegExp, BrowserAdvice])[] = [
    [/Firefox\//, firefox],
    [/Chrom(e|ium)\/|Edg\//, linux ? chromiumOnLinux : chromium],
    [/Safari\//, safari],
  ];
  const all = families.map(([, advice]) => advice);
  const own = families.find(([pattern]) => pattern.test(userAgent))?.[1];
  const ordered = own ? [own, ...all.filter((advice) => advice !== own)] : all;
  return secure || hasApi ? ordered : [secureContext, ...ordered];
}
