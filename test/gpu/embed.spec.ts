import { PlanWriter, sampledToken } from '../../src/attention/plan.ts';
import { embedKernel, weightDtypeCodes } from '../../src/engine/kernels.ts';
import { LaunchCache } from '../../src/index.ts';
import { expectEqual, random, readFloats, type SpecContext, spec, uploadBuffer } from '../harness/harness.ts';
import { decodeBrain, decodeHalf, type Format, store } from './formats.ts';
import { submit } from './tiny.ts';

const poison = -54321;

interface Lookup {
  readonly dtype: Format;
  /** The matrix, [vocabulary][hiddenSize], as stored. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly hiddenSize: number;
  /** As the plan has them. */
  readonly tokens: readonly number[];
  /** (token, finished) of each sequence. */
  readonly sampled?: readonly number[];
}

/** Looks the tokens up; two rows more than asked for come back. */
async function embed(t: SpecContext, { dtype, bytes, hiddenSize, tokens, sampled = [0, 0] }: Lookup): Promise<Float32Array> {
  const cache = new LaunchCache(t.gpu);
  t.defer(() => cache.destroy());
  const writer = new PlanWriter(64 + tokens.length);
  writer.begin();
  writer.section('POSITIONS', 3).u32.fill(0xffffffff);
  writer.section('TOKEN_IDS', tokens.length).u32.set(tokens);
  const args = {
    weightDtype: weightDtypeCodes[dtype],
    weights: uploadBuffer(t, bytes),
    plan: uploadBuffer(t, writer.words),
    sampled: uploadBuffer(t, Uint32Array.from(sampled)),
    hidden: uploadBuffer(t, new Float32Array((tokens.length + 2) * hiddenSize).fill(poison)),
    hiddenSize,
    numTokens: tokens.length,
  };
  const site = await cache.prepare(embedKernel, args);
  submit(cache, (pass) => site.record(pass, args));
  return readFloats(t.gpu, args.hidden);
}

for (const dtype of ['f32', 'f16', 'bf16'] as const) {
  spec(`${dtype}: rows of the matrix, and nothing behind the last token`, async (t) => {
    for (const hiddenSize of [8, 24, 576]) {
      const numbers = random(hiddenSize);
      const vocabulary = 50;
      const { bytes, values } = store(numbers.normals(vocabulary * hiddenSize), dtype);
      const tokens = [49, 0, 7, 7, 31, ...Array.from({ length: 60 }, () => numbers.integer(vocabulary))];
      const expected = new Float32Array((tokens.length + 2) * hiddenSize).fill(poison);
      tokens.forEach((token, row) => {
        expected.set(values.subarray(token * hiddenSize, (token + 1) * hiddenSize), row * hiddenSize);
      });
      expectEqual(await embed(t, { dtype, bytes, hiddenSize, tokens }), expected, `hidden size ${hiddenSize}`);
    }
  });
}

spec('tokens that were sampled on the GPU are looked up where they are', async (t) => {
  const hiddenSize = 16;
  const { bytes, values } = store(random(2).normals(20 * hiddenSize), 'f32');
  const sampled = [3, 0, 19, 1, 8, 0];
  const rows = await embed(t, {
    dtype: 'f32',
    bytes,
    hiddenSize,
    tokens: [5, sampledToken + 1, 0, sampledToken, sampledToken + 2],
    sampled,
  });
  const expected = [5, 19, 0, 3, 8].flatMap((token) => [...values.subarray(token * hiddenSize, (token + 1) * hiddenSize)]);
  expectEqual(rows.subarray(0, expected.length), Float32Array.from(expected));
});

/** All 16-bit codes in a matrix of 8 columns. Subnormal results may be flushed to zero: WGSL allows it. */
for (const dtype of ['f16', 'bf16'] as const) {
  spec(
    `every finite ${dtype} code is read exactly`,
    async (t) => {
      const exponentBits = dtype === 'f16' ? 0x7c00 : 0x7f80;
      const finite = Uint16Array.from({ length: 65536 }, (_, code) => ((code & exponentBits) === exponentBits ? 0 : code));
      const tokens = Array.from({ length: 65536 / 8 }, (_, row) => row);
      const rows = await embed(t, { dtype, bytes: new Uint8Array(finite.buffer), hiddenSize: 8, tokens });
      const decode = dtype === 'f16' ? decodeHalf : decodeBrain;
      const bad = [...finite].findIndex((code, i) => {
        const expected = decode(code);
        const flushed = Math.abs(expected) < 2 ** -126 && rows[i] === 0;
        return !Object.is(rows[i], expected) && !flushed && !(expected === 0 && rows[i] === 0);
      });
      expectEqual(bad, -1, bad < 0 ? '' : `code ${bad} became ${rows[bad]}, expected ${decode(finite[bad])}; first wrong code`);
    },
    { devices: 'default' },
  );
}
