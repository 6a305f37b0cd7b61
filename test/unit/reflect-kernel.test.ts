import { describe, expect, it } from 'vitest';
import { cappedCount, gridCount, PagewiseError, ReflectionError } from '../../src/index.ts';
import { shapeOf } from '../../src/launch/kernel.ts';
import { type ReflectOptions, reflectKernel } from '../../src/reflect/index.ts';

const one = { workgroups: { x: () => 1 } };
const entry = '@compute @workgroup_size(1) fn main() { ';

/** A kernel whose only uniform is a struct with these members. */
const withMembers = (members: string, more = '') =>
  reflectKernel(`${more} struct P { ${members} } @group(0) @binding(0) var<uniform> p: P; ${entry} _ = p; }`, one);

describe('what is derived', () => {
  it('classes, bindings, offsets and the grid', () => {
    const wgsl = `
      // struct Ignored { block: /* var<uniform> */ u32 }
      /* outer /* inner */ @group(0) @binding(9) var<storage> ignored: array<u32>; */
      enable f16;
      diagnostic(off, derivative_uniformity);
      alias Point = vec2<f32>;
      struct Parameters { scale: f32, origin: Point, @align(16) block: u32, color: vec3<i32>, last: f32, @size(16) type: u32, end: vec4u }
      @id(7) override tile: u32 = 8 * 2;
      override exact: bool;
      override extra: f32 = 0.5;
      const_assert 1 < 2;
      @binding(4) @group(0) var<uniform> parameters: Parameters;
      @group(0) @binding(6) var<storage, read_write> write: array<atomic<u32>>;
      @group(0) @binding(1) var<storage> read: array<vec4f>;
      var<workgroup> shared_values: array<f32, tile>;
      fn helper(block: u32) -> u32 { let read_write = block; { if (exact) { return read_write; } } return u32(extra) + u32(read[0].x); }
      @compute @workgroup_size(tile, 1) fn main() { atomicAdd(&write[0], helper(parameters.block)); shared_values[0] = 1; }`;
    const options: ReflectOptions = {
      name: 'everything',
      workgroups: { x: ({ rows, block }) => rows * block },
      counts: { rows: cappedCount(100), columns: gridCount },
      frozen: ['exact'],
      buckets: { tile: (value) => (value > 8 ? 16 : 8) },
      defaults: ['extra'],
      swappable: ['read'],
    };
    const kernel = reflectKernel(wgsl, options);
    const shape = shapeOf(kernel);
    expect(kernel.name).toBe('everything');
    expect(kernel.wgsl?.entryPoint).toBe('main');
    expect(shape.buffers).toEqual([
      { name: 'write', access: 'write', binding: 6 },
      { name: 'read', access: 'read', binding: 1 },
    ]);
    expect(shape.swappable).toEqual(['read']);
    expect(shape.keys.map(({ name, of }) => [name, of?.(12)])).toEqual([['tile', 16]]);
    expect([shape.frozen, shape.constants]).toEqual([['exact'], ['tile', 'exact']]);
    expect(shape.caps).toEqual([{ name: 'rows', cap: 100 }]);
    expect([shape.argumentBinding, shape.argumentBytes]).toEqual([4, 80]);
    expect(shape.perCall.map(({ name, type, word }) => [name, type, word])).toEqual([
      ...[
        ['scale', 'f32', 0],
        ['origin.x', 'f32', 2],
        ['origin.y', 'f32', 3],
        ['block', 'u32', 4],
      ],
      ...[
        ['color.x', 'i32', 8],
        ['color.y', 'i32', 9],
        ['color.z', 'i32', 10],
        ['last', 'f32', 11],
        ['type', 'u32', 12],
      ],
      ...[
        ['end.x', 'u32', 16],
        ['end.y', 'u32', 17],
        ['end.z', 'u32', 18],
        ['end.w', 'u32', 19],
      ],
    ]);
    expect('x' in kernel.workgroups && kernel.workgroups.x({ rows: 3, block: 5 })).toBe(15);
    // The number of an override goes; nothing else moves.
    expect(kernel.source[0]).toBe(wgsl.replace('@id(7)', '      '));
  });

  it('a uniform that is no struct', () => {
    const scalar = reflectKernel(`@group(0) @binding(3) var<uniform> count: u32; ${entry} _ = count; }`, one);
    expect(shapeOf(scalar).perCall).toEqual([{ name: 'count', type: 'u32', word: 0 }]);
    const vector = reflectKernel(`@group(0) @binding(3) var<uniform> wind: vec2<i32>; ${entry} _ = wind; }`, one);
    expect(shapeOf(vector).perCall.map(({ name }) => name)).toEqual(['wind.x', 'wind.y']);
    expect(shapeOf(vector).argumentBytes).toBe(16);
  });

  it('a single variant where no override is left to choose', () => {
    expect(reflectKernel(`${entry} }`, one).singleVariant).toBe(true);
    expect(reflectKernel(`override a: u32; ${entry} _ = a; }`, one).singleVariant).toBeUndefined();
    expect(reflectKernel(`override a: u32 = 1; ${entry} _ = a; }`, { ...one, defaults: ['a'] }).singleVariant).toBe(true);
  });

  it('only what the chosen entry point reaches', () => {
    const wgsl = `
      @group(0) @binding(0) var<storage, read_write> output: array<f32>;
      @group(0) @binding(1) var<storage> numbers: array<f32>;
      @group(0) @binding(1) var picture: texture_2d<f32>;
      fn get() -> f32 { return numbers[0]; }
      @compute @workgroup_size(1) fn first() { output[0] = get(); }
      @compute @workgroup_size(1) fn second() { output[0] = textureLoad(picture, vec2u(0), 0).x; }`;
    expect(Object.keys(reflectKernel(wgsl, { ...one, entryPoint: 'first' }).arguments)).toEqual(['output', 'numbers']);
    expect(() => reflectKernel(wgsl, { ...one, entryPoint: 'second' })).toThrow(/Kernel "second", picture: is a texture/);
  });

  it('a grid that a buffer holds', () => {
    const kernel = reflectKernel(`${entry} }`, { workgroups: { indirect: 'grid' } });
    expect(kernel.arguments).toEqual({ grid: { class: 'indirect' } });
  });
});

const resource = (declaration: string) => () => reflectKernel(`@group(0) @binding(0) var${declaration} ${entry} _ = it; }`, one);
const options = (more: Partial<ReflectOptions>, wgsl = `override a: u32; ${entry} _ = a; }`) => {
  return () => reflectKernel(wgsl, { ...one, ...more });
};

describe('what is refused, by name and with a remedy', () => {
  it.each<[string, () => unknown, string, RegExp]>([
    ['an array', () => withMembers('a: f32, list: array<vec4f, 2>'), 'p.list', /is an array. Move it to a storage buffer/],
    ['a nested struct', () => withMembers('inner: Q', 'struct Q { a: f32 }'), 'p.inner', /is a struct .* Move its fields up/],
    ['a matrix', () => withMembers('turn: mat2x2<f32>'), 'p.turn', /is a matrix. Write it as one vector per column/],
    ['a short matrix', () => withMembers('turn: mat4x4f'), 'p.turn', /is a matrix/],
    ['16 bits', () => withMembers('small: f16'), 'p.small', /16-bit values. Declare it with f32/],
    ['a vector of 16 bits', () => withMembers('small: vec2<f16>'), 'p.small', /16-bit values/],
    ['a short vector of 16 bits', () => withMembers('small: vec2h'), 'p.small', /16-bit values/],
    ['a uniform array', resource('<uniform> it: array<vec4f, 4>;'), 'it', /is an array/],
    ['a long uniform', () => withMembers('a: vec4f, @align(256) b: u32'), 'p', /has 512 bytes, but per-call values fill 256/],
    ['a texture', resource(' it: texture_2d<f32>;'), 'it', /is a texture. .* copy the texture/],
    ['a storage texture', resource(' it: texture_storage_2d<rgba8unorm, write>;'), 'it', /is a texture/],
    ['an external texture', resource(' it: texture_external;'), 'it', /is a texture/],
    ['a sampler', resource(' it: sampler;'), 'it', /is a sampler/],
    ['an immediate', options({}, `var<immediate> it: vec4f; ${entry} _ = it; }`), 'it', /is an immediate. Declare it as var<uniform>/],
    [
      'several uniforms',
      options({}, `@group(0) @binding(0) var<uniform> a: u32; @group(0) @binding(1) var<uniform> b: u32; ${entry} _ = a + b; }`),
      'a, b',
      /several uniforms.* Put their fields into one struct/,
    ],
    [
      'another group',
      options({}, `@group(2) @binding(0) var<storage> it: array<u32>; ${entry} _ = it[0]; }`),
      'it',
      /is in group 2.* Move it to @group\(0\)/,
    ],
    ['an override without a type', options({}, `override a = 3; ${entry} _ = a; }`), 'a', /Write one, such as "override a: u32"/],
    ['an override of 16 bits', options({}, `override a: f16; ${entry} _ = a; }`), 'a', /Declare it as f32/],
    [
      'one name for two things',
      options({}, `struct P { a: u32 } override a: u32; @group(0) @binding(0) var<uniform> p: P; ${entry} _ = a + p.a; }`),
      'a',
      /names a field of the uniform and something else/,
    ],
    ['no entry point', options({}, 'fn main() {}'), '(entry point)', /no function marked @compute/],
    ['two entry points', options({}, `${entry} } @compute @workgroup_size(1) fn more() {}`), '(entry point)', /main, more. Choose one/],
    ['a foreign entry point', options({ entryPoint: 'start' }), 'start', /is no compute entry point. There are: main/],
    ['a foreign override', options({ frozen: ['b'] }), 'b', /is no override that the entry point reaches. There are: a/],
    ['a foreign buffer', options({ swappable: ['a'] }), 'a', /is no storage buffer.* There are: none/],
    ['two classes', options({ frozen: ['a'], buckets: { a: (value) => value } }), 'a', /has several classes/],
    ['a default that is none', options({ defaults: ['a'] }), 'a', /has no value in the WGSL to keep/],
    ['what the parser cannot read', resource('<uniform> it: vec2<;'), 'it', /wgsl_reflect cannot read.*defineKernel/],
  ])('%s', (_, derive, declaration, message) => {
    let thrown: unknown;
    try {
      derive();
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toBeInstanceOf(ReflectionError);
    expect(thrown).toBeInstanceOf(PagewiseError);
    expect((thrown as ReflectionError).declaration).toBe(declaration);
    expect((thrown as ReflectionError).message).toMatch(message);
  });
});
