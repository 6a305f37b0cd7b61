// What matrix-keys-i8.wgsl does with matrices, as narrow-matrix.wgsl for the others: i8 operands, i32 results, and places counted in vectors of sixteen bytes
// or four i32.

alias ByteKeys = subgroup_matrix_left<i8, 32, 16>; // [key][value of its row]
alias ByteHeads = subgroup_matrix_right<i8, 8, 32>; // queries [value][head]
alias ByteSums = subgroup_matrix_result<i32, 8, 16>; // products [key][head]

fn loadByteKeys(subgroup: u32, at: u32) -> ByteKeys {
  return subgroupMatrixLoad<ByteKeys, row_major>(&staged[subgroup], at, byteStride);
}

fn loadByteQueries(at: u32) -> ByteHeads {
  return subgroupMatrixLoad<ByteHeads, col_major>(&staged[0], at, byteStride);
}

fn storeByteSums(subgroup: u32, at: u32, sums: ByteSums) {
  subgroupMatrixStore<row_major>(&staged[subgroup], at, sums, sumsStride);
}

fn noByteSums() -> ByteSums {
  return ByteSums(0);
}

fn multiplyAddBytes(keys: ByteKeys, heads: ByteHeads, sums: ByteSums) -> ByteSums {
  return subgroupMatrixMultiplyAccumulate(keys, heads, sums);
}

fn times256(sums: ByteSums) -> ByteSums {
  return subgroupMatrixScalarMultiply(sums, 256);
}
