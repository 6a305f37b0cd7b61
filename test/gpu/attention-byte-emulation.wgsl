// What shaders/attention/byte-matrix.wgsl does, by plain code, beside attention-narrow-emulation.wgsl: an invocation has a row of a left matrix, lane / 2, and
// four columns of the others.

struct ByteKeys {
  row: array<u32, 8>, // four values each
}

struct ByteHeads {
  columns: array<array<u32, 8>, 4>,
}

alias ByteSums = vec4<i32>;

fn loadByteKeys(subgroup: u32, at: u32) -> ByteKeys {
  var keys: ByteKeys;
  for (var k = 0u; k < 8u; k++) {
    keys.row[k] = staged[subgroup][at + matrixLane / 2u * byteStride + k / 4u][k % 4u];
  }
  return keys;
}

fn loadByteQueries(at: u32) -> ByteHeads {
  var heads: ByteHeads;
  for (var n = 0u; n < 4u; n++) {
    for (var k = 0u; k < 8u; k++) {
      heads.columns[n][k] = staged[0][at + (matrixLane % 2u * 4u + n) * byteStride + k / 4u][k % 4u];
    }
  }
  return heads;
}

fn storeByteSums(subgroup: u32, at: u32, sums: ByteSums) {
  staged[subgroup][at + matrixLane / 2u * sumsStride + matrixLane % 2u] = bitcast<vec4<u32>>(sums);
}

fn noByteSums() -> ByteSums {
  return ByteSums();
}

fn multiplyAddBytes(keys: ByteKeys, heads: ByteHeads, sums: ByteSums) -> ByteSums {
  var k = keys;
  var h = heads;
  var result = sums;
  for (var n = 0u; n < 4u; n++) {
    for (var i = 0u; i < 8u; i++) {
      result[n] += dot4I8Packed(k.row[i], h.columns[n][i]);
    }
  }
  return result;
}

fn times256(sums: ByteSums) -> ByteSums {
  return 256 * sums;
}
