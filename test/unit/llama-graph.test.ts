import { readFile } from 'node:fs/promises';
import { env, InferenceSession, Tensor } from 'onnxruntime-web';
import { describe, expect, test } from 'vitest';
import { llamaModel } from '../../bench/compare/llama-graph.ts';
import { readLlamaWeights, transposed } from '../../bench/compare/llama-weights.ts';
import { openOnnxruntimeLlama } from '../../bench/compare/onnxruntime-llama.ts';
import { behindBest, describeTokens, expectGolden, expectOurTokens, likeliest, logitDifference } from '../../bench/compare/tokens.ts';
import { filesFrom, readModelConfig } from '../../src/engine/index.ts';
import { openSafetensors, type TensorIndex } from '../../src/engine/safetensors.ts';

env.wasm.numThreads = 1;

const files = filesFrom('demo/model', async (name) => new Uint8Array(await readFile(`demo/model/${name}`)));

describe('the ONNX graph of the shipped model', () => {
  test.each(['f32', 'f16'] as const)(
    "in %s has transformers' logits and tokens, by onnxruntime on the processor",
    { timeout: 60_000 },
    async (type) => {
      const { prompts } = JSON.parse(await readFile('test/golden/golden.json', 'utf8'));
      const { ids, greedy_ids, top5 } = prompts[0];
      const config = await readModelConfig(files);
      const file = llamaModel(config, type, await readLlamaWeights(await openSafetensors(files), config, type));
      const llama = await openOnnxruntimeLlama({ runtime: { InferenceSession, Tensor }, file, config, type });
      let first: Float32Array = new Float32Array(0);
      const decoded = await llama.decode(ids, 5, (logits, step) => {
        if (step === 0) first = logits;
        return likeliest(logits);
      });
      await llama.destroy();
      expect(decoded.ids).toEqual(greedy_ids.slice(0, 5));
      expect(first).toHaveLength(config.vocabSize);
      top5.ids.forEach((id: number, i: number) => {
        expect(Math.abs(first[id] - top5.logits[i]), `logit ${id}`).toBeLessThan(type === 'f32' ? 1e-4 : 2e-2);
      });
      expect(decoded.firstToken).toBeGreaterThan(0);
      expect(decoded.perToken).toBeGreaterThan(0);
    },
  );

  test('needs f16 weights for f16, and no biases', async () => {
    const config = await readModelConfig(files);
    const tensors = await openSafetensors(files);
    const widened: TensorIndex = { ...tensors, tensor: (name) => ({ ...tensors.tensor(name), dtype: 'bf16' }) };
    await expect(readLlamaWeights(widened, config, 'f16')).rejects.toThrow('f16 weights only');
    await expect(readLlamaWeights(tensors, { ...config, mlpBias: true }, 'f32')).rejects.toThrow('no biases');
  });

  test('transposes matrices that lie one below the other', () => {
    expect(transposed([Float32Array.of(1, 2, 3), Float32Array.of(4, 5, 6, 7, 8, 9)], 3)).toEqual(
      Float32Array.of(1, 4, 7, 2, 5, 8, 3, 6, 9),
    );
    expect(transposed([Uint16Array.of(1, 2)], 2)).toEqual(Uint16Array.of(1, 2));
  });
});

describe('tokens of two that decode the same prompt', () => {
  test('the likeliest is the first of the largest logits, and others are behind it', () => {
    expect(likeliest(Float32Array.of(-1, 3, 3, 2))).toBe(1);
    expect(behindBest(Float32Array.of(-1, 3, 2), 1)).toBe(0);
    expect(behindBest(Float32Array.of(-1, 3, 2), 0)).toBe(4);
    expect(behindBest(Float32Array.of(-1, Number.NaN, 2), 0)).toBeNaN();
  });

  test("ours must be transformers', as far as both go", () => {
    expectGolden([1, 2], { ids: [0], greedy_ids: [1, 2, 3] });
    expectGolden([1, 2, 3, 9], { ids: [0], greedy_ids: [1, 2, 3] });
    expect(() => expectGolden([1, 4], { ids: [0], greedy_ids: [1, 2, 3] })).toThrow('token 2 is 4, not 2');
  });

  test("ours must be the other's choice, or nearly", () => {
    expectOurTokens([0, 0.2, 0], 0.25);
    expect(() => expectOurTokens([0, 0.3], 0.25)).toThrow('token 2 is 0.3 behind');
    expect(() => expectOurTokens([Number.NaN], 0.25)).toThrow('token 1');
  });

  test('they are equal, or part at a near tie; else they are wrong', () => {
    expect(describeTokens([5, 6], [5, 6], [0, 0])).toBe('its 2 tokens are ours');
    expect(describeTokens([5, 7, 8], [5, 6, 9], [0, 0.125, 0])).toContain('up to token 2, a near tie: ours (6) is 0.13 behind its own (7)');
    expect(() => describeTokens([5, 7], [5, 6], [0, 0])).toThrow('token 2 is 7, not 6');
    expect(() => describeTokens([5], [5, 6], [0, 0])).toThrow('1 tokens, not 2');
  });

  test('logits may differ by so much', () => {
    expect(logitDifference(Float32Array.of(1, 2), Float32Array.of(1, 2.5), 0.5)).toBe(0.5);
    expect(() => logitDifference(Float32Array.of(1, 2), Float32Array.of(1, 2.5), 0.4)).toThrow('Logit 1 is 2, not 2.5');
    expect(() => logitDifference(Float32Array.of(Number.NaN), Float32Array.of(1), 1)).toThrow('Logit 0');
    expect(() => logitDifference(Float32Array.of(1), Float32Array.of(1, 2), 1)).toThrow('1 logits, not 2');
  });
});
