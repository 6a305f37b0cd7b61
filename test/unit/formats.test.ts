import { expect, it } from 'vitest';
import { decodeBrain, decodeHalf, encodeBrain, encodeHalf, store } from '../gpu/formats.ts';
import { random } from '../harness/random.ts';

const finiteHalves = Array.from({ length: 65536 }, (_, code) => code).filter((code) => ((code >> 10) & 31) !== 31);

it('every finite half survives decoding and encoding', () => {
  for (const code of finiteHalves) if (encodeHalf(decodeHalf(code)) !== code) expect.fail(`code ${code}`);
});

it('a value between two halves goes to the nearer, and from the middle to the even one', () => {
  for (const code of finiteHalves) {
    if (code & 0x8000 || code === 0x7bff) continue;
    const [low, high] = [decodeHalf(code), decodeHalf(code + 1)];
    const middle = (low + high) / 2;
    const expected = code % 2 === 0 ? code : code + 1;
    if (encodeHalf(middle) !== expected || encodeHalf(-middle) !== (expected | 0x8000)) expect.fail(`middle above ${code}`);
    if (encodeHalf(low + (high - low) * 0.49) !== code || encodeHalf(low + (high - low) * 0.51) !== code + 1) expect.fail(`near ${code}`);
  }
});

it('bfloat16 is the upper half of a float, rounded', () => {
  expect([1, -2, 3.140625, 0].map(encodeBrain)).toEqual([0x3f80, 0xc000, 0x4049, 0]);
  const numbers = random(3);
  for (let i = 0; i < 1000; i++) {
    const value = numbers.normal();
    expect(Math.abs(decodeBrain(encodeBrain(value)) - value)).toBeLessThanOrEqual(Math.abs(value) * 2 ** -8);
  }
});

it('stores what it says it stores', () => {
  const { bytes, values } = store([1, -0.5, 1e-7], 'f16');
  expect([...new Uint16Array(bytes.buffer)]).toEqual([0x3c00, 0xb800, 2]);
  expect([...values]).toEqual([1, -0.5, 2 ** -23]);
});
