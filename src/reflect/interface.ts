/** What an entry point asks of its caller, read out of WGSL text with `wgsl_reflect`. */
import { type MemberInfo, type TypeInfo, type VariableInfo, WgslReflect } from 'wgsl_reflect/wgsl_reflect.module.js';
import { ReflectionError } from '../errors.ts';
import { computeEntryPoints, type Declaration, identifier, reachableFrom, splitDeclarations } from './declarations.ts';

/** A value in a uniform, a scalar or one component of a vector: `origin.x`. */
export interface UniformField {
  readonly name: string;
  readonly type: 'u32' | 'i32' | 'f32';
  /** Bytes from the start of the uniform. */
  readonly offset: number;
}

/** The resources and constants that an entry point reaches. */
export interface ShaderInterface {
  readonly entryPoint: string;
  readonly buffers: readonly { readonly name: string; readonly binding: number; readonly access: 'read' | 'write' }[];
  readonly uniform: { readonly binding: number; readonly size: number; readonly fields: readonly UniformField[] } | undefined;
  readonly overrides: readonly { readonly name: string; readonly type: 'u32' | 'i32' | 'f32' | 'bool'; readonly hasDefault: boolean }[];
}

const scalars: Readonly<Record<string, UniformField['type']>> = { u: 'u32', i: 'i32', f: 'f32', u32: 'u32', i32: 'i32', f32: 'f32' };

/** Most bytes of a uniform: an argument slot of the launch cache. */
const maxUniformBytes = 256;

/** @throws {ReflectionError} for whatever a kernel cannot have, by name and with a remedy. */
export function readInterface(kernel: string | undefined, wgsl: string, wanted: string | undefined): ShaderInterface {
  const declarations = splitDeclarations(wgsl);
  const entryPoint = chooseEntryPoint(kernel, computeEntryPoints(declarations), wanted);
  const name = kernel ?? entryPoint;
  const used = reachableFrom(entryPoint, declarations);
  const { reflected, original } = parse(name, used);
  const refuse = (declaration: string, problem: string) => {
    throw new ReflectionError(name, declaration, problem);
  };

  const { textures, samplers, immediates } = reflected;
  const storage = reflected.storage.filter(({ type }) => !type.name.startsWith('texture_'));
  const images = [...textures, ...reflected.storage.filter((one) => !storage.includes(one))];
  for (const one of images) refuse(original(one.name), 'is a texture. A kernel takes storage buffers: copy the texture into one.');
  for (const one of samplers) refuse(original(one.name), 'is a sampler. A kernel takes storage buffers: read and blend their elements.');
  for (const one of immediates) refuse(original(one.name), 'is an immediate. Declare it as var<uniform>.');
  const [uniform, ...more] = reflected.uniforms;
  if (more.length > 0) {
    const names = reflected.uniforms.map((one) => original(one.name)).join(', ');
    refuse(names, 'are several uniforms, but a kernel has one at most. Put their fields into one struct.');
  }
  for (const { name: variable, group } of [...storage, ...reflected.uniforms]) {
    if (group !== 0) refuse(original(variable), `is in group ${group}, but a kernel binds group 0 alone. Move it to @group(0).`);
  }
  return {
    entryPoint,
    buffers: storage.map((one) => ({ name: original(one.name), binding: one.binding, access: accessOf(one) })),
    uniform: uniform && readUniform(uniform, original, refuse),
    overrides: used.filter(({ kind }) => kind === 'override').map((one) => readOverride(one, reflected, original, refuse)),
  };
}

type Refuse = (declaration: string, problem: string) => void;

function chooseEntryPoint(kernel: string | undefined, names: readonly string[], wanted: string | undefined): string {
  if (wanted !== undefined && names.includes(wanted)) return wanted;
  const there = names.length > 0 ? `There are: ${names.join(', ')}.` : 'There is no function marked @compute.';
  if (wanted !== undefined) throw new ReflectionError(kernel ?? wanted, wanted, `is no compute entry point. ${there}`);
  if (names.length === 1) return names[0];
  const problem = names.length === 0 ? there : `Several entry points: ${names.join(', ')}. Choose one with the option "entryPoint".`;
  throw new ReflectionError(kernel ?? '(unnamed)', '(entry point)', problem);
}

/**
 * Parses declarations of data only, under names of our own: the parser takes identifiers such as `block`, `read` and `type`, which WGSL
 * allows, for keywords.
 */
function parse(kernel: string, used: readonly Declaration[]) {
  const data = used.filter(({ kind, text }) => kind !== 'fn' && kind !== 'other' && !/^var\s*<\s*(workgroup|private)/.test(text));
  const names = [...data.map(({ name }) => name)];
  const indexOf = new Map(names.map((name, index) => [name, index]));
  const rename = (text: string) => {
    const outside = /@\s*\w+|var\s*<[^>]*>/g;
    const words = (part: string) => part.replaceAll(identifier, (word) => (indexOf.has(word) ? `name${indexOf.get(word)}` : word));
    let result = '';
    let last = 0;
    for (const match of text.matchAll(outside)) {
      result += words(text.slice(last, match.index)) + match[0];
      last = match.index + match[0].length;
    }
    return result + words(text.slice(last));
  };
  const members = new Map<string, string>();
  const renameMembers = (text: string) =>
    text.replaceAll(/([\p{XID_Start}_]\p{XID_Continue}*)(\s*:)/gu, (_, name: string, colon: string) => {
      const alias = `member${members.size}`;
      members.set(alias, name);
      return alias + colon;
    });
  const text = data.map((one) => rename(one.kind === 'struct' ? renameMembers(one.text) : one.text)).join('\n');
  const original = (name: string) => members.get(name) ?? names[Number(name.slice('name'.length))];
  try {
    return { reflected: new WgslReflect(text), original };
  } catch (error) {
    const problem = `wgsl_reflect cannot read the declarations (${error instanceof Error ? error.message : error}). Declare the kernel with defineKernel.`;
    throw new ReflectionError(kernel, data.map(({ name }) => name).join(', '), problem);
  }
}

function accessOf({ access }: VariableInfo): 'read' | 'write' {
  return access === 'read' || access === '' ? 'read' : 'write';
}

function readUniform(variable: VariableInfo, original: (name: string) => string, refuse: Refuse): NonNullable<ShaderInterface['uniform']> {
  const name = original(variable.name);
  const fields: UniformField[] = [];
  if (variable.isStruct) {
    for (const member of variable.members ?? [])
      fields.push(...flatten(`${name}.${original(member.name)}`, original(member.name), member, refuse));
  } else {
    fields.push(...flatten(name, name, { type: variable.type, offset: 0 }, refuse));
  }
  const size = Math.ceil(variable.size / 16) * 16;
  if (size > maxUniformBytes) {
    refuse(name, `has ${variable.size} bytes, but per-call values fill ${maxUniformBytes} at most. Put the rest into a storage buffer.`);
  }
  return { binding: variable.binding, size, fields };
}

/** The scalars of a member. `path` is for errors, `name` for arguments. */
function flatten(path: string, name: string, { type, offset }: Pick<MemberInfo, 'type' | 'offset'>, refuse: Refuse): UniformField[] {
  const vector = /^vec([234])([fiuh]?)$/.exec(type.name);
  const scalar = scalars[vector ? vector[2] || (formatOf(type)?.name ?? '') : type.name];
  if (scalar) {
    if (!vector) return [{ name, type: scalar, offset }];
    return [...'xyzw'.slice(0, Number(vector[1]))].map((letter, i) => ({
      name: `${name}.${letter}`,
      type: scalar,
      offset: offset + 4 * i,
    }));
  }
  const half = type.name === 'f16' || vector?.[2] === 'h' || formatOf(type)?.name === 'f16';
  if (half && (vector || type.name === 'f16')) refuse(path, 'has 16-bit values. Declare it with f32: a per-call value is u32, i32 or f32.');
  if (type.isArray) refuse(path, 'is an array. Move it to a storage buffer, or write it as scalars and vectors.');
  if (type.isStruct) refuse(path, 'is a struct inside the struct. Move its fields up into the uniform struct.');
  if (type.name.startsWith('mat')) refuse(path, 'is a matrix. Write it as one vector per column, or move it to a storage buffer.');
  refuse(path, `has the type ${type.getTypeName()}. A per-call value is u32, i32, f32, or a vector of these.`);
  return [];
}

function formatOf(type: TypeInfo): TypeInfo | null {
  return 'format' in type ? (type.format as TypeInfo | null) : null;
}

function readOverride(
  { name, text }: Declaration,
  { overrides }: WgslReflect,
  original: (name: string) => string,
  refuse: Refuse,
): ShaderInterface['overrides'][number] {
  const type = overrides.find((one) => original(one.name) === name)?.type?.name;
  if (type === undefined) refuse(name, `has no written type. Write one, such as "override ${name}: u32".`);
  if (type === 'f16') refuse(name, 'has 16 bits. Declare it as f32.');
  return { name, type: type as 'u32' | 'i32' | 'f32' | 'bool', hasDefault: text.includes('=') };
}
