/** Products of matrices by subgroups, which kernels take as WGSL text of their own, so that plain code can take its place. Pure. */
import subgroupMatrixSource from '../shaders/subgroup-matrix.wgsl' with { type: 'text' };

/** The part of a kernel that computes with matrices. */
export interface MatrixFunctions {
  /** The functions of shaders/subgroup-matrix.wgsl, and those that the kernel needs besides. */
  readonly wgsl: string;
  readonly directives: readonly string[];
  /** Arrays of matrices need constant indices. */
  readonly unroll: boolean;
}

/** What a module by matrices needs of WGSL. */
export const matrixDirectives: readonly string[] = ['enable f16', 'enable subgroups', 'enable chromium_experimental_subgroup_matrix'];

/** By subgroups. @param own what the kernel needs besides */
export function subgroupMatrices(own: string): MatrixFunctions {
  return {
    wgsl: `${subgroupMatrixSource}\n${own}`,
    directives: matrixDirectives,
    unroll: true,
  };
}
