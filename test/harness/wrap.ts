export type Method = (...args: unknown[]) => unknown;

/** Replaces a method of one object; what it did before is given to the replacement. @returns puts back what was there */
export function wrap(target: object, name: string, replacement: (original: Method) => Method): () => void {
  const before = Object.getOwnPropertyDescriptor(target, name);
  const original = Reflect.get(target, name) as Method;
  Object.defineProperty(target, name, { configurable: true, value: replacement(original.bind(target)) });
  return () => {
    if (before) Object.defineProperty(target, name, before);
    else Reflect.deleteProperty(target, name);
  };
}
