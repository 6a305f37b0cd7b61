/** Where JSON values of one kind are kept between visits. What a store holds is never trusted: a kind knows its values by their form. */
import { hash } from './manifest.ts';

/** Keeps values by key. Neither method rejects: a store that does not work costs time, and is no reason to stop. */
export interface JsonStore<T> {
  /** What was saved; undefined where there is nothing, or nothing that can be used. */
  load(key: string): Promise<T | undefined>;
  save(key: string, value: T): Promise<void>;
}

export interface JsonStoreOptions {
  /** Hears why something kept was ignored, or could not be kept. */
  readonly onProblem?: (problem: string) => void;
}

/** Reads and writes texts by name, such as files: `read` gives undefined where there is none. */
export interface TextFiles {
  read(name: string): Promise<string | undefined>;
  write(name: string, text: string): Promise<void>;
}

/** A kind of values. */
export interface JsonKind<T> {
  /** In messages. */
  readonly name: string;
  /** The field of a text that holds the value. */
  readonly field: string;
  readonly collection: (typeof collections)[number];
  is(value: unknown): value is T;
}

/** The object stores of a page's database; another one needs another version of it. */
const collections = ['manifests', 'tunings'] as const;
const databaseVersion = collections.length;

/** Values of one kind in a page's IndexedDB, in a database of this name. */
export function indexedDbStore<T>(kind: JsonKind<T>, name = 'pagewise', options: JsonStoreOptions = {}): JsonStore<T> {
  const withStore = async <R>(mode: IDBTransactionMode, use: (store: IDBObjectStore) => IDBRequest<R>): Promise<R> => {
    const open = indexedDB.open(name, databaseVersion);
    open.onupgradeneeded = () => {
      const { result: database } = open;
      for (const one of collections) if (!database.objectStoreNames.contains(one)) database.createObjectStore(one);
    };
    const database = await settled(open);
    try {
      return await settled(use(database.transaction(kind.collection, mode).objectStore(kind.collection)));
    } finally {
      database.close();
    }
  };
  return guarded(
    kind,
    {
      load: (key) => withStore('readonly', (store) => store.get(key)),
      save: async (key, value) => void (await withStore('readwrite', (store) => store.put(value, key))),
    },
    options,
  );
}

/** Values of one kind as JSON texts. Names are 16 hexadecimal digits and `.json`, so that any key makes a good file name. */
export function textStore<T>(kind: JsonKind<T>, files: TextFiles, options: JsonStoreOptions = {}): JsonStore<T> {
  const { field } = kind;
  return guarded(
    kind,
    {
      // The key is kept with the value, so that two keys of one name are told apart.
      async load(key) {
        const text = await files.read(fileName(key));
        if (text === undefined) return undefined;
        const kept: unknown = JSON.parse(text);
        const isRecord = typeof kept === 'object' && kept !== null && 'key' in kept && field in kept;
        if (isRecord && kept.key !== key) return undefined;
        return isRecord ? Reflect.get(kept, field) : kept;
      },
      save: (key, value) => files.write(fileName(key), `${JSON.stringify({ key, [field]: value })}\n`),
    },
    options,
  );
}

interface UncheckedStore<T> {
  load(key: string): Promise<unknown>;
  save(key: string, value: T): Promise<void>;
}

function guarded<T>({ name, is }: JsonKind<T>, store: UncheckedStore<T>, { onProblem }: JsonStoreOptions): JsonStore<T> {
  const reason = (error: unknown) => (error instanceof Error ? error.message : String(error));
  return {
    async load(key) {
      try {
        const kept = await store.load(key);
        if (kept === undefined || is(kept)) return kept;
        onProblem?.(`what is kept for ${key} is no ${name} of this version; it is ignored`);
      } catch (error) {
        onProblem?.(`the ${name} for ${key} cannot be read (${reason(error)}); it is ignored`);
      }
      return undefined;
    },
    async save(key, value) {
      try {
        await store.save(key, value);
      } catch (error) {
        onProblem?.(`the ${name} for ${key} cannot be kept (${reason(error)})`);
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
