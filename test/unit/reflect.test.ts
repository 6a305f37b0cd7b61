import { describe, expect, it } from 'vitest';
import { WgslReflect } from 'wgsl_reflect/wgsl_reflect.module.js';
import * as attentionKernels from '../../src/attention/kernels.ts';
import { mergeStatesKernel } from '../../src/attention/merge-states.ts';
import * as modelKernels from '../../src/engine/kernels.ts';
import { type ArgumentDeclaration, joinSource, type Kernel, type SelectorValue, shapeOf } from '../../src/launch/kernel.ts';

const isKernel = (value: unknown): value is Kernel => typeof value === 'object' && value !== null && 'workgroups' in value;
const exported: readonly unknown[] = [...Object.values(attentionKernels), mergeStatesKernel, ...Object.values(modelKernels)];
const kernels = [...new Set(exported.flat())].filter(isKernel);

/** Any value of a selector that WGSL can have: what a declaration is checked against does not depend on it. */
function anyValue(name: string, declaration: ArgumentDeclaration): SelectorValue {
  if (name === 'loadWords' || name === 'keysPerThread') return 4;
  if (name === 'kvDtype') return 0;
  return 'type' in declaration && declaration.type === 'bool' ? false : 8;
}

function joined(kernel: Kernel): string {
  const { keys, frozen } = shapeOf(kernel);
  const names = [...keys.map(({ name }) => name), ...frozen];
  return joinSource(
    { ...kernel, unroll: undefined },
    Object.fromEntries(names.map((name) => [name, anyValue(name, kernel.arguments[name]!)])),
  );
}

/** The declarations alone: the parser stumbles over function bodies that use words such as `block` as names, and knows no types of matrices. */
function withoutBodies(wgsl: string): string {
  const known = wgsl.replaceAll(/subgroup_matrix_\w+<[^>]+>/g, 'f32');
  return known.replaceAll(/^((?:@\w.*\n)?fn [^{]*)\{(?:.*\}$|[\s\S]*?^\})/gm, '$1{}');
}

it('finds the kernels', () => {
  const names = kernels.map(({ name }) => name);
  expect(names.length).toBeGreaterThanOrEqual(10);
  expect(new Set(names).size).toBe(names.length);
});

describe.each(kernels.map((kernel) => [kernel.name, kernel] as const))('%s', (_, kernel) => {
  const shape = shapeOf(kernel);
  const wgsl = joined(kernel);
  const reflected = new WgslReflect(withoutBodies(wgsl));

  it('has one entry point, main', () => {
    expect(reflected.entry.compute.map(({ name }) => name)).toEqual(['main']);
    expect([...reflected.entry.vertex, ...reflected.entry.fragment]).toEqual([]);
  });

  it('binds its buffers in declaration order, with the same names and access', () => {
    const found = reflected.storage.map(({ name, group, binding, access }) => ({ name, group, binding, access }));
    const declared = shape.buffers.map(({ name, access }, binding) => {
      return { name, group: 0, binding, access: access === 'read' ? 'read' : 'read_write' };
    });
    expect(found.sort((a, b) => a.binding - b.binding)).toEqual(declared);
    expect([...reflected.textures, ...reflected.samplers]).toEqual([]);
  });

  it('declares every selector that is no text as an override of the same type', () => {
    const found = reflected.overrides.map(({ name, type }) => [name, type?.name]);
    const declared = shape.constants.map((name) => [name, (kernel.arguments[name] as { type: string }).type]);
    expect(found.sort()).toEqual(declared.sort());
  });

  it('has its per-call values as the fields of Arguments, behind the buffers', () => {
    const found = reflected.uniforms.map(({ name, group, binding }) => ({ name, group, binding }));
    const struct = reflected.structs.find(({ name }) => name === 'Arguments');
    if (shape.perCall.length === 0) {
      expect([found, struct]).toEqual([[], undefined]);
      return;
    }
    expect(found).toEqual([{ name: 'args', group: 0, binding: shape.buffers.length }]);
    const fields = struct!.members.map(({ name, type, offset, size }) => ({ name, type: type.name, offset, size }));
    expect(fields).toEqual(shape.perCall.map(({ name, type }, i) => ({ name, type, offset: 4 * i, size: 4 })));
    expect(Math.ceil(struct!.size / 16) * 16).toBe(shape.argumentBytes);
  });

  it('uses every selector, override or text, and every per-call value', () => {
    const texts = [...shape.keys.map(({ name }) => name), ...shape.frozen].filter((name) => !shape.constants.includes(name));
    for (const name of texts) expect(wgsl.match(new RegExp(`\\b${name}\\b`, 'g'))?.length ?? 0, name).toBeGreaterThan(1);
    for (const name of shape.constants) expect(wgsl.match(new RegExp(`\\b${name}\\b`, 'g'))?.length ?? 0, name).toBeGreaterThan(1);
    for (const { name } of shape.perCall) expect(wgsl, name).toMatch(new RegExp(`\\bargs\\.${name}\\b`));
  });

  it('stays within the default limits of storage buffers', () => {
    expect(shape.buffers.length).toBeLessThanOrEqual(8);
  });

  it('needs no feature and no language extension, but for the kernels that have another to stand in for them', () => {
    const enabled: Readonly<Record<string, readonly string[]>> = {
      'decode in f16': ['enable f16;'],
      'decode in f16, keys as bytes': ['enable f16;'],
      'decode by subgroups': ['enable subgroups;'],
      'decode by subgroups, keys as bytes': ['enable subgroups;'],
      'decode in f16 by subgroups': ['enable f16;', 'enable subgroups;'],
      'decode in f16 by subgroups, keys as bytes': ['enable f16;', 'enable subgroups;'],
      'decode by matrices': ['enable f16;', 'enable subgroups;', 'enable chromium_experimental_subgroup_matrix;'],
      'decode by matrices, keys as bytes': ['enable f16;', 'enable subgroups;', 'enable chromium_experimental_subgroup_matrix;'],
      'prefill by matrices': ['enable f16;', 'enable subgroups;', 'enable chromium_experimental_subgroup_matrix;'],
      'matmul by matrices': ['enable f16;', 'enable subgroups;', 'enable chromium_experimental_subgroup_matrix;'],
    };
    const needed = [...wgsl.matchAll(/^\s*(?:enable|requires)\b.*$/gm)].map(([line]) => line.trim());
    expect(needed).toEqual(enabled[kernel.name] ?? []);
  });
});
