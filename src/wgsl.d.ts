/** A shader imported as its text: `import decode from '../shaders/decode.wgsl' with { type: 'text' }`. */
declare module '*.wgsl' {
  const source: string;
  export default source;
}
