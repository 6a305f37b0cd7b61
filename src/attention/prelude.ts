/** WGSL text that the attention kernels' preludes are made of. Pure. */
import type { ArgumentDeclarations } from '../launch/kernel.ts';
import { type KvFormat, kvFormats } from './layout.ts';

/** `name = value` pairs as WGSL constants. */
export function constants(values: Readonly<Record<string, number | boolean | string>>): string {
  return Object.entries(values)
    .map(([name, value]) => `const ${name} = ${value}${typeof value === 'boolean' || value === 'true' || value === 'false' ? '' : 'u'};`)
    .join('\n');
}

/** The struct `Arguments`, from the per-call values of a declaration. */
export function argumentStruct(declarations: ArgumentDeclarations): string {
  const fields = Object.entries(declarations).flatMap(([name, d]) => (d.class === 'perCall' ? [`  ${name}: ${d.type},`] : []));
  return `struct Arguments {\n${fields.join('\n')}\n}`;
}

/** Bindings of a pool of several buffers, and functions that choose among them. */
export function poolPrelude(bindings: readonly number[], access: 'read' | 'read_write', element: string): string {
  const declarations = [
    `const poolBuffers = ${bindings.length}u;`,
    ...bindings.map((binding, i) => `@group(0) @binding(${binding}) var<storage, ${access}> pool${i}: array<${element}>;`),
  ];
  const choose = (statement: (i: number) => string) =>
    bindings.length === 1
      ? `  ${statement(0)}`
      : `  switch (buffer) {\n${bindings.map((_, i) => `    ${i === 0 ? 'default' : `case ${i}u`}: { ${statement(i)} }`).join('\n')}\n  }`;
  const read = (name: string) => `fn ${name}(buffer: u32, at: u32) -> ${element} {\n${choose((i) => `return pool${i}[at];`)}\n}`;
  if (access === 'read') return [...declarations, read('poolLoad')].join('\n');
  const store = `fn poolStore(buffer: u32, at: u32, value: u32) {\n${choose((i) => `pool${i}[at] = value;`)}\n}`;
  return [...declarations, read('poolRead'), store].join('\n');
}

/** Of a dtype's code. */
export const formatOf = (kvDtype: number) => Object.values(kvFormats)[kvDtype];

/**
 * A unit is what one load brings: vectors of four values.
 * @param halves codes are to be unpacked as f16: then they have no offset
 */
export function unitFunctions(kvDtype: number, loadWords: number, halves: boolean): string {
  const format = formatOf(kvDtype);
  const vectors = loadWords / format.bytes;
  return `
alias PoolLoad = vec${loadWords}<u32>;
const unit = ${4 * vectors}u;
const unitVectors = ${vectors}u;
${halves && format.halves ? unpackHalves(format.halves) : unpackVector(format)}
fn scalePair(w: PoolLoad, at: u32) -> vec2<u32> { return ${loadWords === 4 ? 'select(w.xy, w.zw, at == 2u)' : 'w'}; }`;
}

/** A column is four values of a row, as it is stored, and a load has unitVectors of them. */
export function columnFunctions(kvDtype: number, loadWords: number): string {
  const { bytes } = formatOf(kvDtype);
  const words = Array.from({ length: bytes }, (_, i) => `w[${bytes}u * v + ${i}u]`);
  return `
alias Column = ${bytes === 1 ? 'u32' : `vec${bytes}<u32>`};
fn columnOf(w: PoolLoad, v: u32) -> Column { return Column(${words.join(', ')}); }
fn unpackColumn(column: Column) -> vec4f { return unpackVector(PoolLoad(${Array(loadWords / bytes)
    .fill('column')
    .join(', ')}), 0u); }`;
}

const unpackVector = ({ unpack, factor, offset }: KvFormat) => `
const codeFactor = ${float(factor)};
const codeOffset = ${float(offset)};
fn unpackVector(w: PoolLoad, v: u32) -> vec4f { return ${unpack}; }`;

const unpackHalves = ({ unpack, top, factor, valueShift }: NonNullable<KvFormat['halves']>) => `
const codeOffset = 0.0;
const halvesTop = ${float(top)};
const halvesFactor = ${float(factor)};
const valueShift = ${float(valueShift)};
fn unpackHalves(w: PoolLoad, v: u32) -> Codes { return ${unpack}; }`;

/** A WGSL literal. */
export const float = (value: number) => (Number.isInteger(value) ? value.toFixed(1) : String(value));
