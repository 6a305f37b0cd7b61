/**
 * Samples as CPython's `random.Random(seed).sample` draws them, so that the same worked examples come before the same question as in
 * lm-evaluation-harness. The generator is MT19937 (Matsumoto and Nishimura 1998), seeded by its `init_by_array`.
 */

/** Draws from one sequence of numbers: each call goes on where the last one ended. */
export interface PythonRandom {
  /** `count` different values of `from`, in the order drawn; at most as many as there are. */
  sample<T>(from: readonly T[], count: number): T[];
}

const size = 624;
const middle = 397;

/** @param seed u32 */
export function pythonRandom(seed: number): PythonRandom {
  const state = seedState(seed);
  let next = size;

  function word(): number {
    if (next === size) {
      twist(state);
      next = 0;
    }
    let y = state[next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  /** An integer from 0 to `end` - 1, as `Random._randbelow` draws it. */
  function below(end: number): number {
    const bits = 32 - Math.clz32(end);
    for (;;) {
      const value = word() >>> (32 - bits);
      if (value < end) return value;
    }
  }

  return {
    sample(from, count) {
      // CPython goes by a copy of a short list, by the places already taken of a long one.
      const short = from.length <= 21 + (count > 5 ? 4 ** Math.ceil(Math.log(count * 3) / Math.log(4)) : 0);
      if (short) {
        const pool = [...from];
        return Array.from({ length: count }, (_, i) => {
          const at = below(from.length - i);
          const drawn = pool[at];
          pool[at] = pool[from.length - i - 1];
          return drawn;
        });
      }
      const taken = new Set<number>();
      while (taken.size < count) taken.add(below(from.length));
      return [...taken].map((at) => from[at]);
    },
  };
}

function seedState(seed: number): Uint32Array {
  const state = new Uint32Array(size);
  state[0] = 19650218;
  for (let i = 1; i < size; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  let i = 1;
  const advance = (): void => {
    if (++i < size) return;
    state[0] = state[size - 1];
    i = 1;
  };
  for (let k = 0; k < size; k++) {
    state[i] = (state[i] ^ Math.imul(state[i - 1] ^ (state[i - 1] >>> 30), 1664525)) + seed;
    advance();
  }
  for (let k = 0; k < size - 1; k++) {
    state[i] = (state[i] ^ Math.imul(state[i - 1] ^ (state[i - 1] >>> 30), 1566083941)) - i;
    advance();
  }
  state[0] = 0x80000000;
  return state;
}

function twist(state: Uint32Array): void {
  for (let i = 0; i < size; i++) {
    const y = (state[i] & 0x80000000) | (state[(i + 1) % size] & 0x7fffffff);
    state[i] = state[(i + middle) % size] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
  }
}
