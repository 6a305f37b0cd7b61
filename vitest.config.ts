import { defineConfig, mergeConfig } from 'vitest/config';
import vite from './vite.config.ts';

export default defineConfig((environment) =>
  mergeConfig(vite({ ...environment, mode: 'unit' }), {
    build: undefined,
    test: {
      ...{ dir: 'test/unit', include: ['**/*.test.ts'], environment: 'node', passWithNoTests: true },
      // By default one core stays idle, and a test may take 5 s, which what runs beside it can use up.
      ...{ maxWorkers: '100%', testTimeout: 60_000 },
    },
  }),
);
