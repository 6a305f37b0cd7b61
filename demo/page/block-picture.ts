/**
 * The picture of the KV cache: one cell per block, on a canvas. A frame draws only the cells that changed and reads no layout.
 */
import type { BlockSnapshot } from 'pagewise/worker';
import { describeBlocks, type GridLayout, layOutGrid, nullState, readBlockStates, usedBlocks } from './block-states.ts';
import { element, setText } from './elements.ts';

/** The picture. */
export interface BlockPicture {
  /** Where to read the blocks of the cache to show; undefined: none is. */
  show(read: (() => BlockSnapshot) | undefined): void;
  /** Draws what changed since the last call. */
  update(): void;
}

interface Colours {
  readonly line: string;
  readonly fill: string;
  readonly part: string;
  readonly empty: string;
}

const wantedHeight = 150;

/** Connects to the canvas and the summary of index.html. */
export function connectBlockPicture(): BlockPicture {
  const canvas = element('blocks', HTMLCanvasElement);
  const summary = element('blocks-summary', HTMLElement);
  const context = canvas.getContext('2d');
  let read: (() => BlockSnapshot) | undefined;
  let shown = new Float32Array(0);
  let next = new Float32Array(0);
  let layout: GridLayout | undefined;
  let colours = readColours(canvas);
  let width = 0;
  let most = 0;

  function resize(): void {
    layout = read && width > 0 ? layOutGrid(read().size, width, wantedHeight) : undefined;
    const scale = devicePixelRatio;
    canvas.style.height = `${layout?.height ?? 0}px`;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round((layout?.height ?? 0) * scale);
    context?.scale(scale, scale);
    shown = new Float32Array(0);
    update();
  }

  function update(): void {
    if (!read || !layout || !context) return;
    const blocks = read();
    next = readBlockStates(blocks, next);
    for (const [block, state] of next.entries()) if (state !== shown[block]) drawCell(context, layout, block, state, colours);
    [shown, next] = [next, shown];
    most = Math.max(most, usedBlocks(shown));
    setText(summary, describeBlocks(blocks, shown, most));
  }

  new ResizeObserver(([entry]) => {
    if (!entry || entry.contentRect.width === width) return;
    width = entry.contentRect.width;
    resize();
  }).observe(canvas);
  for (const query of ['(prefers-color-scheme: dark)', '(forced-colors: active)']) {
    matchMedia(query).addEventListener('change', () => {
      colours = readColours(canvas);
      resize();
    });
  }

  return {
    show(source) {
      read = source;
      most = 0;
      if (!read) setText(summary, 'No model is loaded.');
      resize();
    },
    update,
  };
}

function drawCell(context: CanvasRenderingContext2D, layout: GridLayout, block: number, state: number, colours: Colours): void {
  const { columns, pitch, cell } = layout;
  const x = (block % columns) * pitch;
  const y = Math.floor(block / columns) * pitch;
  const radius = cell >= 10 ? 3 : 1;
  context.clearRect(x - 0.5, y - 0.5, cell + 1, cell + 1);
  context.save();
  context.beginPath();
  context.roundRect(x + 0.5, y + 0.5, cell - 1, cell - 1, radius);
  context.clip();
  context.fillStyle = state > 0 && state < 1 ? colours.part : colours.empty;
  context.fillRect(x, y, cell, cell);
  if (state > 0) {
    context.fillStyle = colours.fill;
    context.fillRect(x, y + cell * (1 - state), cell, cell * state);
  }
  context.restore();
  context.strokeStyle = state > 0 ? colours.fill : colours.line;
  context.lineWidth = 1;
  context.beginPath();
  context.roundRect(x + 0.5, y + 0.5, cell - 1, cell - 1, radius);
  if (state === nullState) {
    context.moveTo(x + 0.5, y + cell - 0.5);
    context.lineTo(x + cell - 0.5, y + 0.5);
  }
  context.stroke();
}

/** The colours of the stylesheet. */
function readColours(canvas: HTMLCanvasElement): Colours {
  const probe = document.createElement('span');
  canvas.after(probe);
  const read = (name: string): string => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const colours = { line: read('--cell-line'), fill: read('--cell-full'), part: read('--cell-part'), empty: read('--cell-empty') };
  probe.remove();
  return colours;
}
