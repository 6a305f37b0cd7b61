import { defineConfig, mergeConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';
import vite from './vite.config.ts';

/** Files that start a browser, benches or servers: the longest first. Begun last, one would run alone at the end. */
const longest = [/terminal\/serving-bench\.test/, /unit\/bench-chromium\.test/, /unit\/bench\.test/, /unit\/soak\.test/];

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rankOf = ({ moduleId }: TestSpecification) => {
      const rank = longest.findIndex((name) => name.test(moduleId));
      return rank < 0 ? longest.length : rank;
    };
    return (await super.sort(files)).sort((a, b) => rankOf(a) - rankOf(b));
  }
}

export default defineConfig((environment) =>
  mergeConfig(vite({ ...environment, mode: 'unit' }), {
    build: undefined,
    test: {
      ...{ dir: 'test/unit', include: ['**/*.test.ts'], environment: 'node', passWithNoTests: true },
      // By default one core stays idle, and a test may take 5 s, which what runs beside it can use up.
      ...{ maxWorkers: '100%', testTimeout: 60_000 },
      sequence: { sequencer: LongestFirst },
    },
  }),
);
