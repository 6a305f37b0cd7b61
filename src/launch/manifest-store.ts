/** Where manifests are kept between visits. What a store holds is never trusted: `LaunchCache.warmup` judges every entry. */
import type { Gpu } from '../gpu.ts';
import { version } from '../version.ts';
import { hash, isManifest, type LaunchManifest } from './manifest.ts';

/** Keeps manifests by key. Neither method rejects: a store that does not work costs time, and is no reason to stop. */
export interface ManifestStore {
  /** What was saved; undefined where there is nothing, or nothing that can be used. */
  load(key: string): Promise<LaunchManifest | undefined>;
  save(key: string, manifest: LaunchManifest): Promise<void>;
}

export interface ManifestStoreOptions {
  /** Hears why something kept was ignored, or could not be kept. */
  readonly onProblem?: (problem: string) => void;
}

/**
 * A key that changes where another set of pipelines is wanted: with the library's version, the adapter and `name`, which tells models,
 * or programs, apart. A changed WGSL needs no other key: a manifest names each text by its hash.
 */
export function manifestKey({ adapter }: Gpu, name: string): string {
  const { vendor, architecture, device, description } = adapter;
  return JSON.stringify([version, vendor, architecture, device, description, name]);
}

/** Manifests in a page's IndexedDB, in a database of this name. */
export function indexedDbManifests(name = 'pagewise', options: ManifestStoreOptions = {}): ManifestStore {
  const withStore = async <T>(mode: IDBTransactionMode, use: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> => {
    const open = indexedDB.open(name, 1);
    open.onupgradeneeded = () => void open.result.createObjectStore(objectStore);
    const database = await settled(open);
    try {
      return await settled(use(database.transaction(objectStore, mode).objectStore(objectStore)));
    } finally {
      database.close();
    }
  };
  return guarded(
    {
      load: (key) => withStore('readonly', (store) => store.get(key)),
      save: async (key, manifest) => void (await withStore('readwrite', (store) => store.put(manifest, key))),
    },
    options,
  );
}

/** Reads and writes texts by name, such as files: `read` gives undefined where there is none. */
export interface TextFiles {
  read(name: string): Promise<string | undefined>;
  write(name: string, text: string): Promise<void>;
}

/** Manifests as JSON texts. Names are 16 hexadecimal digits and `.json`, so that any key makes a good file name. */
export function textManifests(files: TextFiles, options: ManifestStoreOptions = {}): ManifestStore {
  return guarded(
    {
      // The key is kept with the manifest, so that two keys of one name are told apart.
      async load(key) {
        const text = await files.read(fileName(key));
        if (text === undefined) return undefined;
        const kept: unknown = JSON.parse(text);
        const isRecord = typeof kept === 'object' && kept !== null && 'key' in kept && 'manifest' in kept;
        if (isRecord && kept.key !== key) return undefined;
        return isRecord ? kept.manifest : kept;
      },
      save: (key, manifest) => files.write(fileName(key), `${JSON.stringify({ key, manifest })}\n`),
    },
    options,
  );
}

const objectStore = 'manifests';

interface UncheckedStore {
  load(key: string): Promise<unknown>;
  save(key: string, manifest: LaunchManifest): Promise<void>;
}

function guarded(store: UncheckedStore, { onProblem }: ManifestStoreOptions): ManifestStore {
  const reason = (error: unknown) => (error instanceof Error ? error.message : String(error));
  return {
    async load(key) {
      try {
        const kept = await store.load(key);
        if (kept === undefined || isManifest(kept)) return kept;
        onProblem?.(`what is kept for ${key} is no launch manifest of this version; it is ignored`);
      } catch (error) {
        onProblem?.(`the launch manifest for ${key} cannot be read (${reason(error)}); it is ignored`);
      }
      return undefined;
    },
    async save(key, manifest) {
      try {
        await store.save(key, manifest);
      } catch (error) {
        onProblem?.(`the launch manifest for ${key} cannot be kept (${reason(error)})`);
      }
    },
  };
}

function settled<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function fileName(key: string): string {
  return `${hash(key)}.json`;
}
