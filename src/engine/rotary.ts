/**
 * Angles of rotary position embedding, as tables.
 *
 * Su and others, "RoFormer" (arXiv:2104.09864): elements i and i + headDim/2 of a head are a point in the plane, turned by
 * position * frequency[i]. The ways to stretch it to longer contexts are those of transformers 5.17, modeling_rope_utils.py.
 */
import type { RopeConfig } from './config.ts';

/**
 * Cosines and sines for every position, computed in float64 and rounded once.
 *
 * @param headDim elements of one head, even.
 * @param length positions 0 to length - 1.
 * @returns shape [length, headDim / 2, 2]: (cos, sin), each times the attention factor. The caller owns it.
 */
export function rotaryTable(rope: RopeConfig, headDim: number, length: number): Float32Array<ArrayBuffer> {
  const frequencies = rotaryFrequencies(rope, headDim);
  const factor = attentionFactor(rope);
  const table = new Float32Array(length * headDim);
  let next = 0;
  for (let position = 0; position < length; position++) {
    for (const frequency of frequencies) {
      const angle = position * frequency;
      table[next++] = Math.cos(angle) * factor;
      table[next++] = Math.sin(angle) * factor;
    }
  }
  return table;
}

/** Radians per position for each of the headDim / 2 planes, fastest first. */
export function rotaryFrequencies(rope: RopeConfig, headDim: number): Float64Array<ArrayBuffer> {
  const frequencies = Float64Array.from({ length: headDim / 2 }, (_, plane) => rope.theta ** ((-2 * plane) / headDim));
  if (rope.type === 'linear') return frequencies.map((frequency) => frequency / rope.factor);
  if (rope.type === 'llama3') return frequencies.map((frequency) => llama3Frequency(rope, frequency));
  if (rope.type === 'yarn') return yarnFrequencies(rope, frequencies, headDim);
  return frequencies;
}

/** What cos and sin are multiplied by: 1 but for YaRN, where it stands for the softmax's temperature. */
export function attentionFactor(rope: RopeConfig): number {
  if (rope.type !== 'yarn') return 1;
  if (rope.attentionFactor !== undefined) return rope.attentionFactor;
  const scale = (weight: number): number => (rope.factor <= 1 ? 1 : 0.1 * weight * Math.log(rope.factor) + 1);
  return rope.mscale && rope.mscaleAllDim ? scale(rope.mscale) / scale(rope.mscaleAllDim) : scale(1);
}

/** Llama 3.1: short waves stay, long ones are stretched by the factor, those in between go over smoothly. */
function llama3Frequency(rope: Extract<RopeConfig, { type: 'llama3' }>, frequency: number): number {
  const rotations = (rope.originalContextLength * frequency) / (2 * Math.PI);
  if (rotations < rope.lowFrequencyFactor) return frequency / rope.factor;
  if (rotations > rope.highFrequencyFactor) return frequency;
  const smooth = (rotations - rope.lowFrequencyFactor) / (rope.highFrequencyFactor - rope.lowFrequencyFactor);
  return ((1 - smooth) * frequency) / rope.factor + smooth * frequency;
}

/** YaRN, "Efficient Context Window Extension" (arXiv:2309.00071), "NTK-by-parts": a linear ramp over the planes. */
function yarnFrequencies(
  rope: Extract<RopeConfig, { type: 'yarn' }>,
  frequencies: Float64Array<ArrayBuffer>,
  headDim: number,
): Float64Array<ArrayBuffer> {
  /** The plane that turns so often within the original context. */
  const planeOf = (rotations: number): number =>
    (headDim * Math.log(rope.originalContextLength / (rotations * 2 * Math.PI))) / (2 * Math.log(rope.theta));
  const round = (plane: number, to: (value: number) => number): number => (rope.truncate ? to(plane) : plane);
  const low = Math.max(round(planeOf(rope.betaFast), Math.floor), 0);
  const high = Math.min(round(planeOf(rope.betaSlow), Math.ceil), headDim - 1);
  const width = high === low ? 0.001 : high - low;
  return frequencies.map((frequency, plane) => {
    const stretched = Math.min(Math.max((plane - low) / width, 0), 1);
    return (frequency / rope.factor) * stretched + frequency * (1 - stretched);
  });
}
