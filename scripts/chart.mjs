/**
 * Charts by Observable Plot as one SVG that stands alone and follows the reader's colour scheme.
 *
 * @typedef {object} Panel
 * @property {string} title
 * @property {import('@observablehq/plot').PlotOptions} options without size and document
 *
 * @typedef {object} PanelRow what one report shows
 * @property {string} head
 * @property {readonly string[]} small lines under it
 * @property {readonly Panel[]} panels side by side
 */
import { plot } from '@observablehq/plot';
import { parseHTML } from 'linkedom';

/** Colours of series, in order: custom properties that the style below defines for light and dark pages. */
export const seriesColors = Array.from({ length: 6 }, (_, i) => `var(--series-${i})`);

/** @param {string} text @param {readonly string[]} series */
const theme = (text, series) =>
  [`color: ${text};`, ...series.map((color, i) => `--series-${i}: ${color};`), '--plot-background: transparent;'].join(' ');
const style = `
  svg { font-family: system-ui, sans-serif; ${theme('#1f2328', ['#0969da', '#bc4c00', '#1a7f37', '#8250df', '#0d7d87', '#cf222e'])} }
  .head, .title, .small { fill: currentColor; } .head { font-size: 15px; font-weight: 600; } .title { font-size: 13px; font-weight: 600; }
  .small { font-size: 11.5px; opacity: .75; }
  @media (prefers-color-scheme: dark) { svg { ${theme('#e6edf3', ['#4493f8', '#f0883e', '#3fb950', '#ab7df8', '#39c5cf', '#ff7b72'])} } }`;

const width = 1040;
const gap = 40;
const panelHeight = 300;
const titleHeight = 34;
const lineHeight = 16;

/** @param {string} title @param {readonly PanelRow[]} rows @returns {string} */
export function drawChart(title, rows) {
  const { document } = parseHTML('<!doctype html><body></body>');
  /** @type {string[]} */
  const parts = [];
  let y = titleHeight;
  for (const { head, small, panels } of rows) {
    parts.push(`<text class="head" x="0" y="${y + 14}">${escaped(head)}</text>`);
    small.forEach((line, i) => void parts.push(`<text class="small" x="0" y="${y + 32 + i * lineHeight}">${escaped(line)}</text>`));
    y += 32 + small.length * lineHeight;
    const panelWidth = (width - gap * (panels.length - 1)) / panels.length;
    panels.forEach(({ title, options }, i) => {
      const x = i * (panelWidth + gap);
      parts.push(`<text class="title" x="${x}" y="${y + 14}">${escaped(title)}</text>`);
      const chart = plot({ marginBottom: 44, ...options, document, width: panelWidth, height: panelHeight, style: { fontSize: '12px' } });
      // Plot's own style is for a chart that stands in a page.
      for (const own of chart.querySelectorAll('style')) own.remove();
      chart.setAttribute('role', 'img');
      chart.setAttribute('aria-label', title);
      chart.setAttribute('x', String(x));
      chart.setAttribute('y', String(y + 20));
      parts.push(chart.outerHTML);
    });
    y += 20 + panelHeight + 16;
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 0 ${width + 24} ${y}" role="img" aria-label="${escaped(title)}">
<style>${style}
</style>
<text class="head" x="0" y="22">${escaped(title)}</text>
${parts.join('\n')}
</svg>
`;
}

/** Head and lines that say what was measured where. @param {import('../bench/report.ts').BenchReport} report */
export function captionOf({ runtime, adapter, commit, date }) {
  return { head: runtime, small: [`${adapter.replace(/^[\d\s]+/, '').slice(0, 120)}; commit ${commit}, ${date}`] };
}

/** @param {string} text */
function escaped(text) {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
}
