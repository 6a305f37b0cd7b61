/**
 * Which program gives WebGPU here: `deno`, `node`, `firefox`, `chromium`, `safari`, or the whole user agent where it is none of these. Without
 * its version: what was measured stays good enough from one to the next.
 */
export function hostName(userAgent: string = globalThis.navigator?.userAgent ?? 'Node.js'): string {
  return hosts.find(([pattern]) => pattern.test(userAgent))?.[1] ?? userAgent;
}

/** Chromium names Safari, too. */
const hosts = [
  [/^Deno\b/, 'deno'],
  [/^Node\.js\b/, 'node'],
  [/\bFirefox\//, 'firefox'],
  [/\bChrom(e|ium)\//, 'chromium'],
  [/\bSafari\//, 'safari'],
] as const;

/** Whether WGSL is compiled by naga here, not by Tint or by WebKit's compiler. */
export const isNagaHost = (): boolean => ['deno', 'firefox'].includes(hostName());
