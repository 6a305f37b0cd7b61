/** The ES module of the package, which its own types leave out; Node takes the other file for CommonJS. */
declare module 'wgsl_reflect/wgsl_reflect.module.js' {
  export * from 'wgsl_reflect';
}
