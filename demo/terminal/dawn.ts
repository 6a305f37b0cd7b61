import { env } from 'node:process';
import { create, globals } from 'webgpu';

/**
 * Dawn from the npm package `webgpu`, and WebGPU's globals. Keep what it returns: Dawn's instance goes when that is collected.
 * The environment variable `PAGEWISE_DAWN_TOGGLES` names Dawn's features to enable, with commas between them.
 * @param options of `create`, besides
 */
export function openDawn(options: readonly string[] = []): GPU {
  Object.assign(globalThis, globals);
  const toggles = env.PAGEWISE_DAWN_TOGGLES;
  return create([...(toggles ? [`enable-dawn-features=${toggles}`] : []), ...options]);
}
