import { defineConfig, mergeConfig } from 'vitest/config';
import vite from './vite.config.ts';

export default defineConfig((environment) =>
  mergeConfig(vite({ ...environment, mode: 'unit' }), {
    build: undefined,
    test: { dir: 'test/unit', include: ['**/*.test.ts'], environment: 'node', passWithNoTests: true },
  }),
);
