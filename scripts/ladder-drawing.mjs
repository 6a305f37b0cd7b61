/**
 * @typedef {import('../bench/report.ts').BenchReport} BenchReport
 *
 * @typedef {object} Panel
 * @property {BenchReport} report
 * @property {string} suffix of the rows' names
 * @property {string} until what the time ends with
 */

/** Row names and what they are called in the picture, slowest first. */
const rungs = /** @type {const} */ ([
  ['rebuild', 'rebuild everything'],
  ['pipeline-cached', 'new uniform and bind group'],
  ['new-bind-group', 'new bind group'],
  ['write-per-launch', 'a write per launch'],
  ['cached', 'launch cache'],
  ['cached-immediates', 'launch cache, immediates'],
  ['immediates', 'immediates by hand'],
  ['floor', 'floor: by hand, one write'],
  ['bare', 'bare: no arguments'],
]);

const kernels = /** @type {const} */ (['decode', 'trivial']);

const width = 1040;
const gap = 40;
const panelWidth = (width - gap) / 2;
const labelWidth = 196;
const valueWidth = 52;
const rowHeight = 27;
const barHeight = 10;
const headHeight = 62;
const footHeight = 30;
const panelHeight = headHeight + rungs.length * rowHeight + footHeight;
const legendHeight = 56;

/** The ladders of all reports, on one logarithmic scale, as an SVG that follows the reader's colour scheme. @param {readonly BenchReport[]} reports */
export function drawLadder(reports) {
  const panels = reports.flatMap(panelsOf);
  const times = panels.flatMap(({ report, suffix }) =>
    rungs.flatMap(([name]) => kernels.flatMap((kernel) => timeOf(report, `${name}${suffix}`, kernel) ?? [])),
  );
  const [low, high] = [Math.floor(Math.log10(Math.min(...times))), Math.ceil(Math.log10(Math.max(...times)))];
  /** Pixels from a panel's axis. @param {number} time */
  const scale = (time) => ((Math.log10(time) - low) / (high - low)) * (panelWidth - labelWidth - valueWidth);
  const powers = Array.from({ length: high - low + 1 }, (_, i) => low + i);
  const height = legendHeight + Math.ceil(panels.length / 2) * panelHeight;
  const drawn = panels.map((panel, i) => {
    const [x, y] = [(i % 2) * (panelWidth + gap), legendHeight + Math.floor(i / 2) * panelHeight];
    return `<g transform="translate(${x} ${y})">\n${drawPanel(panel, scale, powers)}\n</g>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 0 ${width + 24} ${height}" role="img" aria-label="Host time of a launch, by every way to make one">
<style>
  text { font: 13px system-ui, sans-serif; fill: #1f2328; } .head { font-size: 15px; font-weight: 600; } .small { font-size: 11.5px; fill: #59636e; }
  .cache { font-weight: 600; } .grid { stroke: #d8dee4; } .bar { fill: #8c959f; } .ours { fill: #0969da; } .trivial { opacity: .5; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .small { fill: #9198a1; } .grid { stroke: #2f353d; } .bar { fill: #767e88; } .ours { fill: #4493f8; }
  }
</style>
<text class="head" x="0" y="22">What a launch costs: microseconds per launch, median, logarithmic</text>
<rect class="bar" x="0" y="35" width="26" height="${barHeight}"/><text class="small" x="32" y="44">paged-attention decode kernel</text>
<rect class="bar trivial" x="220" y="35" width="26" height="${barHeight}"/><text class="small" x="252" y="44">trivial kernel of six buffers</text>
<rect class="ours" x="430" y="35" width="26" height="${barHeight}"/><text class="small" x="462" y="44">through the launch cache</text>
${drawn.join('\n')}
</svg>
`;
}

/** In Chromium another process drives the GPU; where that is a real one, the time until it is done counts too. @param {BenchReport} report @returns {Panel[]} */
function panelsOf(report) {
  const host = { report, suffix: '', until: 'host time' };
  if (report.host !== 'chromium' || report.software) return [host];
  return [host, { report, suffix: '-done', until: 'until the GPU process is done' }];
}

/** @param {Panel} panel @param {(time: number) => number} scale @param {readonly number[]} powers of ten on the axis */
function drawPanel({ report, suffix, until }, scale, powers) {
  const { runtime, adapter, commit, date } = report;
  const bottom = headHeight + rungs.length * rowHeight;
  const parts = [
    `<text class="head" x="0" y="18">${escapeText(runtime)}: ${until}</text>`,
    `<text class="small" x="0" y="36">${escapeText(shortAdapter(adapter))}</text>`,
    `<text class="small" x="0" y="51">commit ${escapeText(commit)}, ${date}</text>`,
  ];
  for (const power of powers) {
    const x = labelWidth + scale(10 ** power);
    parts.push(`<line class="grid" x1="${x}" x2="${x}" y1="${headHeight}" y2="${bottom}"/>`);
    parts.push(`<text class="small" text-anchor="middle" x="${x}" y="${bottom + 15}">${tick(power)}</text>`);
  }
  const present = new Set(report.rows.map((row) => row.name));
  rungs.forEach(([name, label], row) => {
    const ours = name.startsWith('cached');
    const y = headHeight + row * rowHeight;
    parts.push(`<text${ours ? ' class="cache"' : ''} x="0" y="${y + 18}">${label}</text>`);
    if (!present.has(name)) parts.push(`<text class="small" x="${labelWidth + 4}" y="${y + 18}">not on this host</text>`);
    kernels.forEach((kernel, i) => {
      const time = timeOf(report, `${name}${suffix}`, kernel);
      const top = y + 3 + i * (barHeight + 1);
      const classes = `${ours ? 'ours' : 'bar'}${kernel === 'trivial' ? ' trivial' : ''}`;
      if (time === undefined) return;
      const length = Math.max(1, scale(time));
      parts.push(`<rect class="${classes}" x="${labelWidth}" y="${top}" width="${length.toFixed(1)}" height="${barHeight}"/>`);
      parts.push(`<text class="small" x="${(labelWidth + length + 4).toFixed(1)}" y="${top + 9}">${number(time)}</text>`);
    });
  });
  return parts.join('\n');
}

/** @param {BenchReport} report @param {string} name @param {string} kernel */
function timeOf({ rows }, name, kernel) {
  return rows.find((row) => row.name === name && row.params.kernel === kernel)?.value;
}

/** Without the numbers that drivers put in front. @param {string} adapter */
function shortAdapter(adapter) {
  return adapter.replace(/^[\d\s]+/, '').slice(0, 80);
}

/** @param {number} power */
function tick(power) {
  return power >= 3 ? `${10 ** (power - 3)}k` : `${10 ** power}`;
}

/** @param {number} time */
function number(time) {
  return time >= 1000 ? Math.round(time).toLocaleString('en') : time >= 100 ? time.toFixed(0) : time.toFixed(time >= 10 ? 1 : 2);
}

/** @param {string} text */
function escapeText(text) {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
