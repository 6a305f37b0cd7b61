import { fileURLToPath } from 'node:url';

/** The repository's root folder. */
export const root = fileURLToPath(new URL('../../', import.meta.url));

/** Where scripts keep what they unpack or build; safe to delete. */
export const cache = fileURLToPath(new URL('../../node_modules/.cache/pagewise/', import.meta.url));
