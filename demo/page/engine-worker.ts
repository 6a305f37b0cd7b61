/** The page's worker: the engine runs here. */
import { serveEngine } from 'pagewise/worker';

serveEngine();
