import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { cache, root } from './folders.mjs';
import { runInForeground } from './processes.mjs';

/**
 * Compiles the Vulkan layer of bench/registers.
 *
 * @returns {Promise<{ env: Record<string, string>, flags: readonly string[] }>} what a program in Node needs, so that it prints a line for each pipeline
 * @throws {Error} without a C compiler or Vulkan's headers
 */
export async function registersLayer() {
  const folder = join(cache, 'registers');
  await mkdir(folder, { recursive: true });
  const library = join(folder, 'layer.so');
  const flags = ['-O1', '-shared', '-fPIC', '-fvisibility=hidden', '-o', library, join(root, 'bench/registers/layer.c')];
  const code = await runInForeground('cc', flags).catch(() => 1);
  if (code !== 0)
    throw new Error("--registers needs a C compiler and Vulkan's headers, on Linux (Debian: apt-get install gcc libc6-dev libvulkan-dev).");
  const layer = { name: 'VK_LAYER_PAGEWISE_registers', type: 'GLOBAL', library_path: './layer.so', api_version: '1.3.0' };
  const manifest = { file_format_version: '1.1.2', layer: { ...layer, implementation_version: '1', description: 'What pipelines take' } };
  await writeFile(join(folder, 'layer.json'), JSON.stringify(manifest));
  return {
    env: { VK_LAYER_PATH: folder, VK_INSTANCE_LAYERS: layer.name },
    flags: ['--import', join(root, 'bench/registers/labels.mjs')],
  };
}
