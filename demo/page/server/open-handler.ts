/** The server of a page or of its service worker: a device, the model on it, and the handler. */
import { type Gpu, openGpu } from 'pagewise';
import { Engine, filesFromUrl, type LoadProgress } from 'pagewise/engine';
import { createHandler, type Handler } from 'pagewise/serve';

/** What the API calls the model. */
const modelName = 'pagewise-stories';

/** An open server. */
export interface OpenHandler {
  readonly handler: Handler;
  readonly gpu: Gpu;
}

/** @param root the address of the folder that has `model/`, and below which the API is; with a slash at its end. After a throw nothing is open. */
export async function openHandler(root: URL, onProgress: (progress: LoadProgress) => void): Promise<OpenHandler> {
  const gpu = await openGpu();
  try {
    const engine = await Engine.load(gpu, filesFromUrl(new URL('model/', root)), { maxWaiting: 32, onProgress });
    const handler = createHandler(engine, { modelName, basePath: root.pathname.replace(/\/$/, '') });
    return { handler, gpu };
  } catch (error) {
    gpu.destroy();
    throw error;
  }
}

/** Whether an address is one of the API's, below `root`. */
export function isApi(address: string, root: URL): boolean {
  const url = new URL(address);
  const path = url.pathname.startsWith(root.pathname) ? url.pathname.slice(root.pathname.length) : '';
  return url.origin === root.origin && /^(v1\/|health$|metrics$)/.test(path);
}
