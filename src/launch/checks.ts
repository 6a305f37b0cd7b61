import { LaunchArgumentError } from '../errors.ts';
import type { Values } from './entry.ts';
import type { ArgumentDeclaration, Kernel } from './kernel.ts';

/** Holds all arguments against the declaration. @throws {LaunchArgumentError} for one that is unknown, missing or ill-typed. */
export function checkArguments(kernel: Kernel, values: Values): void {
  for (const name of Object.keys(values)) {
    if (!Object.hasOwn(kernel.arguments, name)) throw new LaunchArgumentError(kernel.name, name, 'is not declared by the kernel.');
  }
  for (const [name, declaration] of Object.entries(kernel.arguments)) {
    const value: unknown = values[name];
    if (value === undefined || value === null) throw new LaunchArgumentError(kernel.name, name, 'is missing.');
    const expected = expectedType(declaration);
    const fits = expected === 'buffer' ? isBufferArgument(value) : expected.includes(typeof value);
    if (!fits) throw new LaunchArgumentError(kernel.name, name, `must be a ${expected}, not ${typeof value}.`);
  }
}

function expectedType(declaration: ArgumentDeclaration): string {
  if (declaration.class === 'buffer' || declaration.class === 'indirect') return 'buffer';
  if (declaration.class !== 'key' && declaration.class !== 'frozen') return 'number';
  return declaration.type === 'bool' ? 'boolean' : declaration.type === 'text' ? 'string or number' : 'number';
}

/** By shape, because hosts that bring their own WebGPU need not have the class `GPUBuffer` in their globals. */
export function isBuffer(value: unknown): value is GPUBuffer {
  return typeof value === 'object' && value !== null && 'usage' in value && 'size' in value;
}

function isBufferArgument(value: unknown): boolean {
  return isBuffer(value) || (typeof value === 'object' && value !== null && 'buffer' in value && isBuffer(value.buffer));
}
