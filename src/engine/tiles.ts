/** Tiles of the matrix products, and from how many input rows on each is used. Pure. */

/** How the kernel for few rows (shaders/model/matvec.wgsl) takes a product. */
export interface VectorTile {
  /** Input rows of a workgroup: a weight is read once for all of them. */
  readonly rowTile: number;
  /** Weight rows of an invocation. */
  readonly columnsPerThread: number;
  /** Invocations that share a weight row. */
  readonly lanes: number;
  /** Such groups in a workgroup; with `swiglu`, teams * columnsPerThread must be even. */
  readonly teams: number;
  /** Groups of eight weights that an invocation has on their way, of each of its weight rows. */
  readonly steps: number;
}

/** How the kernel for many rows (shaders/model/matmul.wgsl) takes a product. */
export interface MatrixTile {
  /** Input rows and weight rows of a workgroup. */
  readonly rowTile: number;
  readonly columnTile: number;
  /** Input rows and weight rows of an invocation: 4 or 8. A tile has a multiple of 4 x 8 invocations. */
  readonly rowsPerThread: number;
  readonly columnsPerThread: number;
  /** Columns of both operands in workgroup memory at a time; a multiple of 8. */
  readonly depth: number;
  /** 2: the next columns have a place of their own, which saves a barrier. */
  readonly stages: number;
}

/** A kernel with its tile. */
export type Product = { readonly kernel: 'matvec'; readonly tile: VectorTile } | { readonly kernel: 'matmul'; readonly tile: MatrixTile };

/** The kernel for so many input rows and more. */
export type ProductFrom = Product & { readonly from: number };

const vectorTile = (rowTile: number, columnsPerThread: number, lanes: number, teams: number, steps: number): VectorTile => ({
  ...{ rowTile, columnsPerThread, lanes, teams, steps },
});
const matrixTile = (
  [rowTile, columnTile]: readonly [number, number],
  [rowsPerThread, columnsPerThread]: readonly [number, number],
  depth: number,
  stages: number,
): MatrixTile => ({ ...{ rowTile, columnTile, rowsPerThread, columnsPerThread }, ...{ depth, stages } });

/** The tiles to choose among when measuring; each is right for any product. */
export const vectorTiles: readonly VectorTile[] = [
  vectorTile(1, 1, 16, 4, 4),
  vectorTile(1, 1, 32, 2, 4),
  vectorTile(1, 1, 32, 4, 4),
  vectorTile(1, 2, 16, 4, 2),
  vectorTile(1, 2, 32, 2, 2),
  vectorTile(1, 2, 32, 2, 4),
  vectorTile(1, 2, 32, 4, 2),
  vectorTile(1, 4, 16, 4, 1),
  vectorTile(1, 4, 32, 2, 1),
  vectorTile(1, 4, 32, 2, 2),
  vectorTile(2, 4, 32, 2, 1),
  vectorTile(4, 2, 32, 2, 2),
  vectorTile(4, 4, 16, 4, 1),
  vectorTile(4, 4, 32, 2, 1),
  vectorTile(4, 4, 32, 4, 1),
  vectorTile(8, 2, 32, 2, 1),
  vectorTile(8, 2, 32, 4, 1),
  vectorTile(8, 4, 8, 8, 1),
  vectorTile(8, 4, 16, 4, 1),
  vectorTile(8, 4, 32, 2, 1),
];
export const matrixTiles: readonly MatrixTile[] = [
  matrixTile([16, 32], [4, 4], 32, 1),
  matrixTile([32, 32], [4, 4], 16, 1),
  matrixTile([32, 32], [4, 4], 32, 1),
  matrixTile([32, 64], [4, 4], 16, 2),
  matrixTile([64, 64], [4, 4], 16, 1),
  matrixTile([64, 64], [8, 4], 16, 1),
  matrixTile([64, 64], [8, 4], 16, 2),
  matrixTile([64, 64], [8, 8], 16, 1),
  matrixTile([64, 128], [8, 8], 16, 1),
  matrixTile([64, 128], [8, 8], 16, 2),
  matrixTile([64, 128], [8, 8], 32, 1),
  matrixTile([128, 128], [8, 8], 8, 2),
  matrixTile([128, 128], [8, 8], 16, 1),
];

/**
 * The defaults, and the only place that says them. Few rows: the tile for the fewest rows that has them all, else the last, several times.
 * The tile for larger matrices is taken where it gives `enoughTeams` workgroups.
 */
const fewRows: readonly { readonly large: VectorTile; readonly small: VectorTile }[] = [
  { large: vectorTile(1, 2, 32, 2, 2), small: vectorTile(1, 1, 32, 2, 4) },
  { large: vectorTile(4, 4, 32, 2, 1), small: vectorTile(4, 2, 32, 2, 2) },
  { large: vectorTile(8, 4, 32, 2, 1), small: vectorTile(8, 2, 32, 2, 1) },
];

/** Workgroups of 64 invocations that keep a large GPU busy with reading. */
const enoughTeams = 256;

/** Many rows: from how many rows at least, and with how many workgroups at least; the larger, the better they share what they read. */
const manyRows: readonly { readonly fromRows: number; readonly workgroups: number; readonly tile: MatrixTile }[] = [
  { fromRows: 17, workgroups: 200, tile: matrixTile([32, 32], [4, 4], 16, 1) },
  { fromRows: 33, workgroups: 200, tile: matrixTile([64, 64], [8, 4], 16, 2) },
  { fromRows: 33, workgroups: 264, tile: matrixTile([64, 128], [8, 8], 16, 2) },
];

/** Bytes of workgroup memory. */
export function vectorMemory({ rowTile, columnsPerThread, lanes, teams }: VectorTile): number {
  const words = [rowTile * columnsPerThread * teams * (lanes + 1), rowTile * (lanes + 1)];
  return words.reduce((bytes, count) => bytes + Math.ceil(count / 4) * 16, 0);
}

/** Bytes of workgroup memory. */
export function matrixMemory({ rowTile, columnTile, depth, stages }: MatrixTile): number {
  return 4 * (stages * depth * (rowTile + columnTile) + (rowTile * depth) / 4);
}

/**
 * The kernels for a matrix of `outputs` rows, by how many input rows there are: each serves from its `from` rows to the next one's.
 * @param maxRows most input rows
 * @param memory bytes of workgroup memory that the device grants, at least WebGPU's default of 16,384
 */
export function productsFor(outputs: number, maxRows: number, memory: number): readonly ProductFrom[] {
  let from = 1;
  const products: ProductFrom[] = fewRows.map(({ large, small }) => {
    const tile = outputs / (large.columnsPerThread * large.teams) >= enoughTeams ? large : small;
    const product: ProductFrom = { from, kernel: 'matvec', tile };
    from = tile.rowTile + 1;
    return product;
  });
  for (const { fromRows, workgroups, tile: whole } of manyRows) {
    const tile = matrixMemory(whole) <= memory ? whole : { ...whole, stages: 1 };
    const rowTiles = Math.ceil(workgroups / Math.ceil(outputs / tile.columnTile));
    const first = Math.max(fromRows, (rowTiles - 1) * tile.rowTile + 1);
    while (products[products.length - 1].from >= first) products.pop();
    products.push({ from: first, kernel: 'matmul', tile });
  }
  return products.filter((product) => product.from <= maxRows);
}
