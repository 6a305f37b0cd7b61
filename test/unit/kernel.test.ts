import { describe, expect, it } from 'vitest';
import { LaunchArgumentError } from '../../src/errors.ts';
import {
  type ArgumentDeclarations,
  bucket,
  defineKernel,
  frozen,
  gridCount,
  joinSource,
  type Kernel,
  key,
  perCall,
  readBuffer,
  shapeOf,
  writeBuffer,
} from '../../src/launch/kernel.ts';

const isEven = (value: number) => value % 2 === 0;

const everything = defineKernel({
  name: 'everything',
  source: ['struct Arguments { scale: f32 }', 'fn main() {}'],
  prelude: ({ lanes, dtype, even }) => `// ${lanes} ${dtype} ${even}`,
  arguments: {
    output: writeBuffer,
    lanes: key('u32'),
    scale: perCall('f32'),
    dtype: frozen('text'),
    input: readBuffer,
    even: bucket('bool', isEven),
    count: gridCount,
    offset: perCall('i32'),
    heads: frozen('u32'),
    label: key('text'),
  },
  workgroups: { x: ({ count }) => count },
});
const plain = everything as unknown as Kernel;

describe('shapeOf', () => {
  it('sorts the arguments by class, in declaration order', () => {
    expect(shapeOf(plain)).toEqual({
      keys: [{ name: 'lanes' }, { name: 'even', of: isEven }, { name: 'label' }],
      frozen: ['dtype', 'heads'],
      constants: ['lanes', 'even', 'heads'],
      perCall: [
        { name: 'scale', type: 'f32', word: 0 },
        { name: 'offset', type: 'i32', word: 1 },
      ],
      argumentBytes: 16,
      argumentBinding: 2,
      buffers: [
        { name: 'output', access: 'write', binding: 0 },
        { name: 'input', access: 'read', binding: 1 },
      ],
      swappable: [],
      caps: [],
    });
  });

  it('leaves nothing out', () => {
    const { keys, frozen: frozenNames, perCall: perCallValues, buffers } = shapeOf(plain);
    const named = [...keys, ...perCallValues, ...buffers].map(({ name }) => name);
    expect([...named, ...frozenNames, 'count'].sort()).toEqual(Object.keys(everything.arguments).sort());
  });
});

describe('joinSource', () => {
  const selectors = { lanes: 4, even: true, label: 'x', dtype: 'f16', heads: 2 };

  it('joins the prelude, the argument binding behind the buffers, and the sources', () => {
    expect(joinSource(plain, selectors)).toBe(
      ['// 4 f16 true', '@group(0) @binding(2) var<uniform> args: Arguments;', 'struct Arguments { scale: f32 }', 'fn main() {}'].join(
        '\n',
      ),
    );
  });

  it('begins with the directives, but for those that the host does not know', () => {
    const directives = () => ['enable f16', 'enable subgroups'];
    const kernel = { name: 'bare', source: ['fn main() {}'], directives, arguments: {}, workgroups: { x: () => 1 } };
    expect(joinSource(kernel, {})).toBe('enable f16;\nenable subgroups;\nfn main() {}');
    expect(joinSource(kernel, {}, 'arena', new Set(['enable subgroups']))).toBe('enable f16;\nfn main() {}');
  });

  it('leaves out what a kernel has not', () => {
    const kernel = { name: 'bare', source: ['fn main() {}'], arguments: {}, workgroups: { x: () => 1 } };
    expect(joinSource(kernel, {})).toBe('fn main() {}');
  });
});

describe('argumentBytes', () => {
  it.each([
    [1, 16],
    [4, 16],
    [5, 32],
    [64, 256],
  ])('%i values take %i bytes', (count, bytes) => {
    expect(shapeOf(kernelWith(count)).argumentBytes).toBe(bytes);
  });
});

describe('defineKernel', () => {
  it('takes as many per-call values as a slot holds, and names the one too many', () => {
    defineKernel(kernelWith(64));
    expect(() => defineKernel(kernelWith(65))).toThrow(LaunchArgumentError);
    expect(() => defineKernel(kernelWith(65))).toThrow('"value64"');
  });

  it('takes a kernel with a single variant only where that is said', () => {
    const { singleVariant: _, ...unsaid } = kernelWith(1);
    expect(() => defineKernel(unsaid)).toThrow(/singleVariant: true/);
    expect(() => defineKernel({ ...unsaid, arguments: { ...unsaid.arguments, lanes: key('u32') } } as Kernel)).not.toThrow();
  });

  it('returns a record that does not change', () => {
    expect(Object.isFrozen(everything)).toBe(true);
  });
});

function kernelWith(perCallValues: number): Kernel {
  const names = Array.from({ length: perCallValues }, (_, i) => `value${i}`);
  const declarations: ArgumentDeclarations = Object.fromEntries(names.map((name) => [name, perCall('f32')]));
  return { name: 'many', source: [], arguments: declarations, workgroups: { x: () => 1 }, singleVariant: true };
}
