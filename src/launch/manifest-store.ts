/** Where manifests are kept between visits: `LaunchCache.warmup` judges every entry of what a store gives. */
import type { Gpu } from '../gpu.ts';
import { version } from '../version.ts';
import { indexedDbStore, type JsonKind, type JsonStore, type JsonStoreOptions, type TextFiles, textStore } from './json-store.ts';
import { isManifest, type LaunchManifest } from './manifest.ts';

export type ManifestStore = JsonStore<LaunchManifest>;

/**
 * A key that changes where another set of pipelines is wanted: with the library's version, the adapter and `name`, which tells models,
 * or programs, apart. A changed WGSL needs no other key: a manifest names each text by its hash.
 */
export function manifestKey({ adapter }: Gpu, name: string): string {
  const { vendor, architecture, device, description } = adapter;
  return JSON.stringify([version, vendor, architecture, device, description, name]);
}

const manifests: JsonKind<LaunchManifest> = { name: 'launch manifest', field: 'manifest', collection: 'manifests', is: isManifest };

/** Manifests in a page's IndexedDB, in a database of this name. */
export function indexedDbManifests(name?: string, options?: JsonStoreOptions): ManifestStore {
  return indexedDbStore(manifests, name, options);
}

/** Manifests as JSON texts, one for each key. */
export function textManifests(files: TextFiles, options?: JsonStoreOptions): ManifestStore {
  return textStore(manifests, files, options);
}
