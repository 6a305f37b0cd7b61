import { describe, expect, it } from 'vitest';
import { matmulKernel, matmulMatrixKernel, matvecKernel } from '../../src/engine/kernels.ts';
import {
  type MatrixSize,
  matmulMemory,
  matmulTiles,
  type ProductFrom,
  productMemory,
  productsFor,
  subgroupMemory,
  subgroupTileSize,
  subgroupTiles,
  vectorHelpers,
  vectorMemory,
  vectorTiles,
} from '../../src/engine/tiles.ts';
import { joinSource } from '../../src/launch/kernel.ts';
import { workgroupMemory } from './workgroup-memory.ts';

const defaultMemory = 16384;
const matrices = [320, 2048].flatMap((inputs) =>
  [1, 32, 320, 768, 1536, 2048, 3072, 4096, 16384, 128256].map((outputs) => ({ inputs, outputs })),
);
const byMatrices = [false, true];
const all = matrices.flatMap((size) =>
  [defaultMemory, 32768, 49152].flatMap((memory) => byMatrices.flatMap((is) => productsFor(size, 2 ** 20, memory, is))),
);

function invocations({ kernel, tile }: ProductFrom): number {
  if (kernel === 'matvec') return tile.lanes * tile.teams;
  if (kernel === 'matmul') return (tile.rowTile / tile.rowsPerThread) * (tile.columnTile / tile.columnsPerThread);
  return 32 * tile.rowGroups * tile.columnGroups * tile.depthGroups;
}

describe('the tiles of matrix products', () => {
  it.each(vectorTiles.map((tile) => [JSON.stringify(tile), tile] as const))('take the memory that their text says: %s', (_, tile) => {
    expect(vectorMemory(tile)).toBe(workgroupMemory(joinSource({ ...matvecKernel, unroll: undefined } as never, { ...tile })));
    expect([(tile.columnsPerThread * tile.teams) % 2, tile.rowTile % tile.partRows, tile.lanes % vectorHelpers(tile)]).toEqual([0, 0, 0]);
  });

  it.each(matmulTiles.map((tile) => [JSON.stringify(tile), tile] as const))('take the memory that their text says: %s', (_, tile) => {
    expect(matmulMemory(tile)).toBe(workgroupMemory(joinSource({ ...matmulKernel, unroll: undefined } as never, { ...tile })));
    expect([(tile.rowTile / tile.rowsPerThread) % 4, (tile.columnTile / tile.columnsPerThread) % 8, tile.depth % 8]).toEqual([0, 0, 0]);
  });

  it.each(subgroupTiles.map((tile) => [JSON.stringify(tile), tile] as const))('take the memory that their text says: %s', (_, tile) => {
    expect(subgroupMemory(tile)).toBe(workgroupMemory(joinSource({ ...matmulMatrixKernel, unroll: undefined } as never, { ...tile })));
    const { depth, depthGroups, columnBlocks } = tile;
    expect([depth % (16 * depthGroups), Math.log2(depth) % 1, columnBlocks > 1 ? columnBlocks % 2 : 0]).toEqual([0, 0, 0]);
  });

  it('are among those that are tested and measured', () => {
    const known = new Set([...vectorTiles, ...matmulTiles, ...subgroupTiles].map((tile) => JSON.stringify(tile)));
    for (const { tile } of all) expect(known).toContain(JSON.stringify(tile));
  });

  it('fit into what any device grants', () => {
    for (const product of all) expect(invocations(product)).toBeLessThanOrEqual(256);
    for (const size of matrices) {
      for (const product of byMatrices.flatMap((is) => productsFor(size, 2 ** 20, defaultMemory, is)))
        expect(productMemory(product)).toBeLessThanOrEqual(defaultMemory);
    }
  });
});

describe('the choice of a kernel', () => {
  /** Rows, and of the kernel for few rows the invocations that share a row of weights. */
  const sizeOf = ({ kernel, tile }: ProductFrom) => {
    if (kernel === 'matvec') return `${tile.rowTile}/${tile.lanes}`;
    return kernel === 'matmul' ? tile.rowTile : subgroupTileSize(tile).rowTile;
  };
  const wide = { inputs: 2048, outputs: 16384 };
  const narrow = { inputs: 2048, outputs: 2048 };
  const froms = (size: MatrixSize, maxRows: number, memory = 49152, subgroupMatrices = false) =>
    productsFor(size, maxRows, memory, subgroupMatrices).map((product) => `${product.from}: ${product.kernel} ${sizeOf(product)}`);

  it('goes by the rows, and has every row once', () => {
    for (const size of matrices) {
      for (const is of byMatrices) {
        const starts = productsFor(size, 2 ** 20, 49152, is).map(({ from }) => from);
        expect(starts[0]).toBe(1);
        expect([...new Set(starts)].sort((a, b) => a - b)).toEqual(starts);
      }
    }
  });

  it('takes tiles where there are enough of them', () => {
    expect(froms(narrow, 4096)).toEqual([
      ...['1: matvec 1/128', '2: matvec 2/128', '3: matvec 4/128', '5: matvec 8/128', '9: matvec 8/64', '33: matvec 8/32'],
      ...['385: matmul 64', '897: matmul 64', '1921: matmul 128'],
    ]);
    expect(froms({ inputs: 2048, outputs: 128256 }, 4096)).toEqual([
      ...['1: matvec 1/128', '2: matvec 2/128', '3: matvec 4/64', '5: matvec 8/32'],
      ...['49: matmul 64', '65: matmul 64', '129: matmul 128'],
    ]);
  });

  it('leaves out what no step has the rows for', () => {
    expect(froms({ inputs: 320, outputs: 320 }, 1)).toEqual(['1: matvec 1/64']);
    expect(froms({ inputs: 320, outputs: 768 }, 32)).toEqual([
      ...['1: matvec 1/64', '2: matvec 2/64', '3: matvec 4/64', '5: matvec 8/64', '9: matvec 8/32'],
    ]);
  });

  it('takes matrices from 16 rows on where there are columns enough, later where not, and no other kernel then', () => {
    for (const size of matrices) {
      for (const memory of [defaultMemory, 49152]) {
        const products = productsFor(size, 2 ** 20, memory, true);
        const first = products.find(({ kernel }) => kernel === 'matmul by matrices')!;
        expect(first.from, `${size.outputs} columns, ${memory} bytes`).toBeGreaterThanOrEqual(16);
        expect(first.from, `${size.outputs} columns, ${memory} bytes`).toBeLessThanOrEqual(memory === defaultMemory ? 49 : 33);
        expect(products.filter(({ from }) => from >= first.from).every(({ kernel }) => kernel === 'matmul by matrices')).toBe(true);
        expect(products.filter(({ from }) => from < first.from)).toEqual(productsFor(size, first.from - 1, memory));
      }
    }
    expect(froms(narrow, 4096, 49152, true)).toEqual([
      ...['1: matvec 1/128', '2: matvec 2/128', '3: matvec 4/128', '5: matvec 8/128', '9: matvec 8/64'],
      ...[25, 97, 129, 449, 641, 3969].map((from, i) => `${from}: matmul by matrices ${[32, 32, 64, 64, 128, 128][i]}`),
    ]);
    expect(froms(wide, 4096, 49152, true)).toEqual([
      ...['1: matvec 1/128', '2: matvec 2/128', '3: matvec 4/64', '5: matvec 8/64', '9: matvec 8/32'],
      ...[16, 17, 33, 65, 385].map((from, i) => `${from}: matmul by matrices ${[16, 32, 64, 128, 128][i]}`),
    ]);
  });
});
