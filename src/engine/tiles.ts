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
  /**
   * Input rows whose sums are in workgroup memory at a time, a divisor of rowTile. The fewer, the more workgroups run on a core; all at once take
   * the fewest barriers.
   */
  readonly partRows: number;
}

/** How the kernel for many rows (shaders/model/matmul.wgsl) takes a product. */
export interface MatmulTile {
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

/** How the kernel by subgroup matrices (shaders/model/matmul-matrix.wgsl) takes a product; sizes of blocks are in matrices of 16 x 16. */
export interface SubgroupTile {
  /** Subgroups of a workgroup, by rows and columns of the tile. */
  readonly rowGroups: number;
  readonly columnGroups: number;
  /** Subgroups that share a block, and what is summed over. */
  readonly depthGroups: number;
  /** Block of a subgroup; columnBlocks is 1 or even. */
  readonly rowBlocks: number;
  readonly columnBlocks: number;
  /** Columns of both operands in workgroup memory at a time: 16 * depthGroups, or a multiple; a power of two. */
  readonly depth: number;
  /** 2: the next columns have a place of their own, which saves a barrier. */
  readonly stages: number;
}

/** A kernel with its tile. */
export type Product =
  | { readonly kernel: 'matvec'; readonly tile: VectorTile }
  | { readonly kernel: 'matmul'; readonly tile: MatmulTile }
  | { readonly kernel: 'matmul by matrices'; readonly tile: SubgroupTile };

/** Of a matrix of weights: its columns and its rows. */
export interface MatrixSize {
  readonly inputs: number;
  readonly outputs: number;
}

/** The kernel for so many input rows and more. */
export type ProductFrom = Product & { readonly from: number };

const vectorTile = (
  [rowTile, columnsPerThread]: readonly [number, number],
  [lanes, teams]: readonly [number, number],
  steps: number,
  partRows = rowTile,
): VectorTile => ({ ...{ rowTile, columnsPerThread, lanes, teams, steps, partRows } });
const matmulTile = (
  [rowTile, columnTile]: readonly [number, number],
  [rowsPerThread, columnsPerThread]: readonly [number, number],
  depth: number,
  stages: number,
): MatmulTile => ({ ...{ rowTile, columnTile, rowsPerThread, columnsPerThread }, ...{ depth, stages } });

const subgroupTile = (
  [rowGroups, columnGroups, depthGroups]: readonly [number, number, number],
  [rowBlocks, columnBlocks]: readonly [number, number],
  depth: number,
  stages = 1,
): SubgroupTile => ({ ...{ rowGroups, columnGroups, depthGroups }, ...{ rowBlocks, columnBlocks }, ...{ depth, stages } });

/** The tiles to choose among when measuring; each is right for any product. */
export const vectorTiles: readonly VectorTile[] = [
  vectorTile([1, 1], [32, 2], 4),
  vectorTile([1, 2], [32, 2], 4),
  vectorTile([1, 2], [64, 1], 1),
  vectorTile([1, 2], [64, 2], 4),
  vectorTile([1, 2], [128, 1], 2),
  vectorTile([1, 4], [32, 1], 1),
  vectorTile([1, 4], [32, 2], 1),
  vectorTile([1, 4], [64, 2], 1),
  vectorTile([1, 4], [128, 1], 1),
  vectorTile([1, 4], [256, 1], 1),
  vectorTile([2, 2], [64, 1], 1),
  vectorTile([2, 4], [32, 2], 1),
  vectorTile([2, 4], [64, 2], 1),
  vectorTile([2, 4], [128, 1], 1),
  vectorTile([4, 2], [64, 1], 1),
  vectorTile([4, 4], [32, 1], 1),
  vectorTile([4, 4], [32, 4], 1),
  vectorTile([4, 4], [64, 2], 1, 2),
  vectorTile([4, 4], [128, 1], 1, 2),
  vectorTile([8, 2], [32, 2], 1),
  vectorTile([8, 2], [64, 1], 1),
  vectorTile([8, 4], [32, 2], 1),
  vectorTile([8, 4], [32, 2], 1, 2),
  vectorTile([8, 4], [32, 4], 1, 2),
  vectorTile([8, 4], [64, 1], 1, 2),
  vectorTile([8, 4], [64, 2], 1, 2),
  vectorTile([8, 4], [128, 1], 1, 2),
];
export const matmulTiles: readonly MatmulTile[] = [
  matmulTile([16, 32], [4, 4], 32, 1),
  matmulTile([32, 32], [4, 4], 16, 1),
  matmulTile([32, 32], [4, 4], 32, 1),
  matmulTile([32, 64], [4, 4], 16, 2),
  matmulTile([64, 64], [4, 4], 16, 1),
  matmulTile([64, 64], [8, 4], 16, 1),
  matmulTile([64, 64], [8, 4], 16, 2),
  matmulTile([64, 64], [8, 8], 16, 1),
  matmulTile([64, 128], [8, 8], 16, 1),
  matmulTile([64, 128], [8, 8], 16, 2),
  matmulTile([64, 128], [8, 8], 32, 1),
  matmulTile([128, 128], [8, 8], 8, 1),
  matmulTile([128, 128], [8, 8], 8, 2),
  matmulTile([128, 128], [8, 8], 16, 1),
];

export const subgroupTiles: readonly SubgroupTile[] = [
  subgroupTile([1, 1, 8], [1, 2], 256), // 16 x 32
  subgroupTile([1, 2, 4], [1, 2], 128), // 16 x 64
  subgroupTile([1, 1, 4], [2, 2], 64), // 32 x 32
  subgroupTile([1, 1, 8], [2, 2], 256),
  subgroupTile([1, 2, 2], [2, 2], 64), // 32 x 64
  subgroupTile([1, 2, 4], [2, 2], 128),
  subgroupTile([1, 1, 8], [4, 1], 256), // 64 x 16
  subgroupTile([1, 1, 4], [4, 2], 64), // 64 x 32
  subgroupTile([2, 1, 4], [2, 2], 128),
  subgroupTile([2, 2, 1], [2, 2], 64), // 64 x 64
  subgroupTile([2, 2, 2], [2, 2], 64),
  subgroupTile([2, 2, 2], [2, 2], 128),
  subgroupTile([2, 2, 1], [2, 4], 32), // 64 x 128
  subgroupTile([2, 2, 1], [2, 4], 32, 2),
  subgroupTile([2, 4, 1], [2, 2], 64),
  subgroupTile([1, 4, 1], [4, 2], 32),
  subgroupTile([1, 4, 1], [4, 2], 64),
  subgroupTile([1, 4, 1], [4, 4], 32), // 64 x 256
  subgroupTile([2, 2, 1], [4, 4], 32), // 128 x 128
  subgroupTile([2, 2, 1], [4, 4], 32, 2),
  subgroupTile([2, 4, 1], [4, 2], 32),
  subgroupTile([2, 4, 1], [4, 2], 32, 2),
  subgroupTile([2, 4, 1], [4, 2], 64),
  subgroupTile([4, 2, 1], [2, 4], 32),
  subgroupTile([2, 4, 1], [4, 4], 32), // 128 x 256
];

/** Of the kernel for few rows, where there are workgroups enough. */
const widestTile = vectorTile([8, 4], [32, 4], 1, 2);

/** From how many input rows on; of the tiles the first whose inputs and outputs the matrix has at least, else `otherwise`. */
interface FewRows {
  readonly fromRows: number;
  readonly tiles: readonly (readonly [size: Partial<MatrixSize>, tile: VectorTile])[];
  readonly otherwise: VectorTile;
}

/**
 * The defaults, and the only place that says them, from sweeps of all tiles on an H100 and an H200 (`npm run bench -- linear --filter sweep`).
 * What counts for few rows is that every core has loads on their way: a short row of weights keeps few invocations busy, few columns give few
 * workgroups, and several tiles of rows make up for both.
 */
const fewRows: readonly FewRows[] = [
  {
    fromRows: 1,
    tiles: [
      [{ inputs: 1024 }, vectorTile([1, 4], [128, 1], 1)],
      [{ outputs: 4096 }, vectorTile([1, 4], [32, 1], 1)],
    ],
    otherwise: vectorTile([1, 2], [64, 1], 1),
  },
  {
    fromRows: 2,
    tiles: [[{ inputs: 1024 }, vectorTile([2, 4], [128, 1], 1)]],
    otherwise: vectorTile([2, 2], [64, 1], 1),
  },
  {
    fromRows: 3,
    tiles: [
      [{ inputs: 1024, outputs: 8192 }, vectorTile([4, 4], [64, 2], 1, 2)],
      [{ inputs: 1024 }, vectorTile([4, 4], [128, 1], 1, 2)],
      [{ outputs: 4096 }, vectorTile([4, 4], [32, 1], 1)],
    ],
    otherwise: vectorTile([4, 2], [64, 1], 1),
  },
  {
    fromRows: 5,
    tiles: [
      [{ inputs: 1024, outputs: 65536 }, widestTile],
      [{ inputs: 1024, outputs: 8192 }, vectorTile([8, 4], [64, 2], 1, 2)],
      [{ inputs: 1024, outputs: 2560 }, vectorTile([8, 4], [64, 1], 1, 2)],
      [{ inputs: 1024 }, vectorTile([8, 4], [128, 1], 1, 2)],
      [{ outputs: 4096 }, vectorTile([8, 4], [32, 2], 1)],
    ],
    otherwise: vectorTile([8, 2], [64, 1], 1),
  },
  {
    fromRows: 9,
    tiles: [
      [{ outputs: 2560 }, widestTile],
      [{ inputs: 1024 }, vectorTile([8, 4], [64, 2], 1, 2)],
    ],
    otherwise: vectorTile([8, 2], [32, 2], 1),
  },
  { fromRows: 33, tiles: [], otherwise: widestTile },
];

/** A tile, and with how many workgroups at least it is taken. */
interface FromWorkgroups<T> {
  readonly workgroups: number;
  readonly tile: T;
}

/** Many rows: from how many rows at least; the larger a tile, the less is read again, as long as there are workgroups for all cores. */
const manyRows: readonly (FromWorkgroups<MatmulTile> & { readonly fromRows: number })[] = [
  { fromRows: 49, workgroups: 200, tile: matmulTile([64, 64], [8, 4], 16, 1) },
  { fromRows: 65, workgroups: 240, tile: matmulTile([64, 128], [8, 8], 16, 1) },
  { fromRows: 129, workgroups: 256, tile: matmulTile([128, 128], [8, 8], 8, 2) },
];

const deepTile = subgroupTile([1, 1, 8], [2, 2], 256);
const wideTile = subgroupTile([1, 2, 4], [2, 2], 128);

/**
 * By matrices: from how many rows at least, by workgroups as above, and up to which number of rows the tile is worth it; a later entry takes the place of
 * earlier ones. What needs more workgroup memory than there is is left out: the first is there for the least memory. On the H100, us against the
 * best plain kernel for Llama 3.2 1B's gate and up (16,384 columns): 16 rows 41 and 64, 64 rows 50 and 192, 128 rows 70 and 255, 512 rows 225 and 999,
 * 2,048 rows 869 and 3,956; down (2,048 columns): 16 rows 37 and 31, which is why few columns wait for 25 rows, 64 rows 47 and 118, 128 rows 75 and
 * 213, 512 rows 176 and 666, 2,048 rows 481 and 1,825.
 */
const byMatrices: readonly (FromWorkgroups<SubgroupTile> & { readonly fromRows: number; readonly untilRows?: number })[] = [
  { fromRows: 49, workgroups: 0, tile: subgroupTile([1, 2, 2], [2, 2], 64) },
  { fromRows: 16, untilRows: 16, workgroups: 96, tile: subgroupTile([1, 1, 8], [1, 2], 256) },
  { fromRows: 16, untilRows: 16, workgroups: 256, tile: subgroupTile([1, 2, 4], [1, 2], 128) },
  { fromRows: 33, workgroups: 0, tile: deepTile },
  { fromRows: 25, workgroups: 64, tile: deepTile },
  { fromRows: 17, untilRows: 32, workgroups: 256, tile: subgroupTile([1, 2, 2], [2, 2], 64) },
  { fromRows: 33, untilRows: 64, workgroups: 96, tile: wideTile },
  { fromRows: 33, untilRows: 64, workgroups: 256, tile: subgroupTile([2, 2, 2], [2, 2], 64) },
  { fromRows: 65, workgroups: 128, tile: wideTile },
  { fromRows: 65, workgroups: 96, tile: subgroupTile([2, 2, 2], [2, 2], 128) },
  { fromRows: 65, workgroups: 128, tile: subgroupTile([2, 4, 1], [2, 2], 64) },
  { fromRows: 65, workgroups: 96, tile: subgroupTile([2, 4, 1], [4, 2], 32, 2) },
  { fromRows: 129, workgroups: 512, tile: subgroupTile([2, 2, 1], [4, 4], 32) },
];

/** Input rows and columns of a workgroup. */
export function subgroupTileSize(tile: Omit<SubgroupTile, 'depth' | 'stages'>): { readonly rowTile: number; readonly columnTile: number } {
  return { rowTile: 16 * tile.rowGroups * tile.rowBlocks, columnTile: 16 * tile.columnGroups * tile.columnBlocks };
}

/** Invocations that add up the lanes' parts of a sum. */
export function vectorHelpers({ lanes }: Pick<VectorTile, 'lanes'>): number {
  return Math.min(8, Math.max(2, lanes / 8));
}

/** Bytes of workgroup memory. */
export function vectorMemory({ rowTile, columnsPerThread, lanes, teams, partRows }: VectorTile): number {
  const helpers = vectorHelpers({ lanes });
  const sumsOfRow = columnsPerThread * teams + 1;
  const words = [partRows * sumsOfRow * (lanes + helpers), rowTile * sumsOfRow * helpers];
  return words.reduce((bytes, count) => bytes + Math.ceil(count / 4) * 16, 0);
}

/** Whether the product of two staged tiles is worked out without a loop: drivers do not write naga's loops out. In large workgroups, which only GPUs have. */
export function unrollsDepth({ rowTile, columnTile, rowsPerThread, columnsPerThread }: MatmulTile): boolean {
  return (rowTile / rowsPerThread) * (columnTile / columnsPerThread) >= 64;
}

/** Bytes of workgroup memory. */
export function matmulMemory({ rowTile, columnTile, depth, stages }: MatmulTile): number {
  return 4 * (stages * depth * (rowTile + columnTile) + (rowTile * depth) / 4);
}

/** Bytes of workgroup memory. */
export function subgroupMemory(tile: SubgroupTile): number {
  const { rowTile, columnTile } = subgroupTileSize(tile);
  const subgroups = tile.rowGroups * tile.columnGroups * tile.depthGroups;
  const partVectors = 16 * Math.max(tile.depth / 8 / tile.depthGroups + 1, 5);
  const operands = ((tile.stages * (rowTile + columnTile)) / 16) * tile.depthGroups;
  const results = subgroups * Math.min(tile.columnBlocks, 2);
  return 16 * partVectors * Math.max(operands, results) + 4 * rowTile;
}

/** Bytes of workgroup memory. */
export function productMemory(product: Product): number {
  if (product.kernel === 'matvec') return vectorMemory(product.tile);
  return product.kernel === 'matmul' ? matmulMemory(product.tile) : subgroupMemory(product.tile);
}

/**
 * The kernels for a matrix of `outputs` rows of `inputs` weights, by how many input rows there are: each serves from its `from` rows to the next one's.
 * @param maxRows most input rows
 * @param memory bytes of workgroup memory that the device grants, at least WebGPU's default of 16,384
 * @param subgroupMatrices whether to multiply matrices by subgroups, where there are rows for it
 */
export function productsFor(
  { inputs, outputs }: MatrixSize,
  maxRows: number,
  memory: number,
  subgroupMatrices = false,
): readonly ProductFrom[] {
  const products: ProductFrom[] = [];
  for (const { fromRows, tiles, otherwise } of fewRows) {
    const fitting = tiles.find(([least]) => inputs >= (least.inputs ?? 0) && outputs >= (least.outputs ?? 0));
    const tile = fitting?.[1] ?? otherwise;
    if (products.at(-1)?.tile !== tile) products.push({ from: fromRows, kernel: 'matvec', tile });
  }
  /** From so many rows on, which give enough workgroups, instead of what was there for as many. */
  const add = (
    { fromRows, untilRows = Number.POSITIVE_INFINITY, workgroups }: { fromRows: number; untilRows?: number; workgroups: number },
    rowTile: number,
    columnTile: number,
    product: Product,
  ) => {
    const rowTiles = Math.ceil(workgroups / Math.ceil(outputs / columnTile));
    const first = Math.max(fromRows, (rowTiles - 1) * rowTile + 1);
    if (first > untilRows) return;
    while (products[products.length - 1].from >= first) products.pop();
    if (products[products.length - 1].tile !== product.tile) products.push({ from: first, ...product });
  };
  if (subgroupMatrices) {
    for (const choice of byMatrices) {
      if (subgroupMemory(choice.tile) > memory) continue;
      const { rowTile, columnTile } = subgroupTileSize(choice.tile);
      add(choice, rowTile, columnTile, { kernel: 'matmul by matrices', tile: choice.tile });
    }
  } else {
    for (const choice of manyRows) {
      const tile = matmulMemory(choice.tile) <= memory ? choice.tile : { ...choice.tile, stages: 1 };
      add(choice, tile.rowTile, tile.columnTile, { kernel: 'matmul', tile });
    }
  }
  return products.filter((product) => product.from <= maxRows);
}
