// Matrices of 16 x 16 that a subgroup of 32 invocations holds in registers, by the extension chromium_experimental_subgroup_matrix: f16
// operands, f32 results. Which invocation has which element is not known, so all that is not a product goes through workgroup memory.
// Places are counted in vectors of eight f16 or four f32. Whatever computes the same may take the place of this part.
// Kernels keep what they multiply in `staged`, in parts of 16 rows that are `stagedStride` apart: so the place of a matrix in its part is constant, and
// compilers see that it lies within. Else they check, and load it value by value, by two bytes each.

alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Result = subgroup_matrix_result<f32, 16, 16>;

// Rows of `staged` are the columns.
fn loadColumns(part: u32, at: u32) -> Right {
  return subgroupMatrixLoad<Right, col_major>(&staged[part], at, stagedStride);
}

fn zeroResult() -> Result {
  return Result(0.0);
}

fn multiplyAdd(left: Left, right: Right, sum: Result) -> Result {
  return subgroupMatrixMultiplyAccumulate(left, right, sum);
}
