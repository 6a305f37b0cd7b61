/**
 * Draws one decode step of a trace as SVG, for light and dark pages.
 *
 * @typedef {import('../src/launch/trace.ts').TraceEvent} TraceEvent
 *
 * @typedef {object} Span
 * @property {string} name
 * @property {string} category host, launch or gpu
 * @property {number} track
 * @property {number} begin microseconds from the step's begin
 * @property {number} end
 *
 * @typedef {object} Step
 * @property {readonly Span[]} spans of the whole trace
 * @property {number} hostEnd when the host has done its part of the step
 * @property {number} record median microseconds to record a step
 * @property {string} adapter
 */

/** The decode step whose recording took the median of all. @param {import('../src/launch/trace.ts').ChromeTrace} trace @returns {Step} */
export function medianStep({ traceEvents, otherData }) {
  const spans = traceEvents.flatMap(({ ph, name, cat = '', tid, ts = 0, dur = 0 }) =>
    ph === 'X' ? [{ name, category: cat, track: tid, begin: ts, end: ts + dur }] : [],
  );
  const host = spans.filter(({ category }) => category === 'host');
  const steps = host
    .filter(({ name }) => name === 'decode')
    .map((step) => ({ step, record: host.find(({ name, begin }) => name === 'record' && begin >= step.begin) }))
    .flatMap(({ step, record }) => (record ? [{ step, record: record.end - record.begin }] : []))
    .sort((a, b) => a.record - b.record);
  const median = steps[Math.floor(steps.length / 2)];
  if (!median) throw new Error('There is no decode step in the trace.');
  const { begin } = median.step;
  const parts = host.filter((one) => one.begin >= begin && one.end <= median.step.end && one.name === 'submit');
  return {
    spans: spans.map((one) => ({ ...one, begin: one.begin - begin, end: one.end - begin })),
    hostEnd: (parts.at(-1)?.end ?? median.step.end) - begin,
    record: median.record,
    adapter: otherData.adapter,
  };
}

const width = 960;
const left = 84;
const rowHeight = 26;
const top = 44;

/** What is drawn in each row, from the top. */
const rows = [
  { label: 'host', holds: (/** @type {Span} */ { category, name }) => category === 'host' && (name === 'decode' || name === 'wait') },
  { label: '', holds: (/** @type {Span} */ { category, name }) => category === 'host' && name !== 'decode' && name !== 'wait' },
  { label: 'launches', holds: (/** @type {Span} */ { category }) => category === 'launch' },
  { label: 'GPU', holds: (/** @type {Span} */ { category }) => category === 'gpu' },
];

const style = `
  text { font: 12px system-ui, sans-serif; fill: #1f2328; } .small { font-size: 11px; } .grid { stroke: #d0d7de; } .inside { fill: #fff; }
  .host { fill: #59636e; } .plan { fill: #8250df; } .record { fill: #0969da; } .submit { fill: #1a7f37; } .read { fill: #0d7d87; }
  .trace, .wait { fill: #c4cad1; } .launch { fill: #54aeff; } .gpu { fill: #bc4c00; } rect { stroke: #fff; stroke-width: .5; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .grid { stroke: #3d444d; } .inside { fill: #fff; } .trace, .wait { fill: #3d444d; } rect { stroke: #0d1117; }
  }`;

/** @param {Step} step @param {string} title @param {number} microseconds shown @returns {string} */
export function drawStep({ spans, record, adapter }, title, microseconds) {
  const scale = (width - left - 12) / microseconds;
  const x = (/** @type {number} */ time) => left + time * scale;
  const height = top + rows.length * (rowHeight + 6) + 34;
  const bottom = height - 30;
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img" aria-label="A decode step, ${escaped(title)}">`,
    `<style>${style}</style>`,
    `<text x="12" y="20"><tspan font-weight="600">${escaped(title)}</tspan>: recording a decode step takes ${format(record)} (median). ${escaped(adapter)}</text>`,
  ];
  const tick = tickOf(microseconds);
  for (let time = 0; time <= microseconds; time += tick) {
    parts.push(`<line class="grid" x1="${at(x(time))}" x2="${at(x(time))}" y1="${top - 8}" y2="${bottom}"/>`);
    parts.push(`<text class="small" x="${at(x(time))}" y="${bottom + 16}" text-anchor="middle">${format(time)}</text>`);
  }
  rows.forEach(({ label, holds }, row) => {
    const y = top + row * (rowHeight + 6);
    parts.push(`<text x="12" y="${y + 17}">${label}</text>`);
    for (const span of spans) {
      if (!holds(span) || span.end <= 0 || span.begin >= microseconds) continue;
      const [from, to] = [x(Math.max(0, span.begin)), x(Math.min(microseconds, span.end))];
      const kind = span.category === 'host' ? (span.name === 'decode' ? 'host' : span.name) : span.category;
      const text = span.name === 'decode' && span.category === 'host' ? 'decode step' : span.name === 'trace' ? "tracer's own" : span.name;
      parts.push(
        `<rect class="${kind}" x="${at(from)}" y="${y}" width="${at(Math.max(0.4, to - from))}" height="${rowHeight}">` +
          `<title>${escaped(text)}: ${format(span.end - span.begin)}</title></rect>`,
      );
      const inside = kind === 'trace' || kind === 'wait' ? '' : ' inside';
      if (to - from > 7 * text.length + 8)
        parts.push(`<text class="small${inside}" x="${at(from + 5)}" y="${y + 17}">${escaped(text)}</text>`);
    }
  });
  return `${[...parts, '</svg>'].join('\n')}\n`;
}

/** A round distance of ticks, about ten in all. @param {number} microseconds */
function tickOf(microseconds) {
  const power = 10 ** Math.floor(Math.log10(microseconds / 5));
  return [1, 2, 5, 10].map((one) => one * power).find((one) => microseconds / one <= 10) ?? 10 * power;
}

/** @param {number} microseconds */
function format(microseconds) {
  return microseconds >= 1000 ? `${Number((microseconds / 1000).toPrecision(3))} ms` : `${Number(microseconds.toPrecision(3))} \u00b5s`;
}

/** @param {number} coordinate */
function at(coordinate) {
  return coordinate.toFixed(1);
}

/** @param {string} text */
function escaped(text) {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;');
}
