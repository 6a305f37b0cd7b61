/** The worker of main.ts: the engine runs here, on a thread of its own. */
import { serveEngine } from 'pagewise/worker';

serveEngine();
