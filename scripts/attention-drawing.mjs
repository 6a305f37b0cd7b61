import { axisX, axisY, barX, dot, gridX, gridY, line, ruleX, text } from '@observablehq/plot';
import { captionOf, drawChart, seriesColors } from './chart.mjs';

/**
 * @typedef {import('../bench/report.ts').BenchReport} BenchReport
 *
 * @typedef {object} Share
 * @property {string} batch
 * @property {number} context
 * @property {string} kv
 * @property {number} share of the read ceiling, %
 * @property {number} time microseconds
 */

/**
 * Decode's share of what reading allows: against the context, and by KV dtype, as far as a run measured them.
 * @param {readonly BenchReport[]} reports @throws {Error} for a report of neither
 */
export function drawAttention(reports) {
  return drawChart(
    'Decode attention: its share of the rate at which the same device reads memory',
    reports.map((report) => {
      const panels = [...againstContext(report), ...byDtype(report)];
      if (panels.length === 0) throw new Error(`The report of ${report.runtime} has rows neither of "decode" nor of "KV dtypes".`);
      return { ...captionOf(report), panels };
    }),
  );
}

/** Cases of so many sequences of one length. @param {BenchReport} report @param {string} title @returns {Share[]} */
function sharesOf({ rows }, title) {
  return rows.flatMap((row) => {
    const [, batch, context] = /^(\d+) x (\d+)$/.exec(String(row.params.case)) ?? [];
    const time = rows.find(({ name, params }) => name === title && params.case === row.params.case && params.kv === row.params.kv);
    if (row.name !== `${title}, share` || !batch || !time) return [];
    return [{ batch, context: Number(context), kv: String(row.params.kv), share: row.value, time: time.value }];
  });
}

/** @param {BenchReport} report @returns {import('./chart.mjs').Panel[]} */
function againstContext(report) {
  const shares = sharesOf(report, 'decode').sort((a, b) => a.context - b.context);
  if (shares.length === 0) return [];
  const batches = [...new Set(shares.map(({ batch }) => batch))].sort((a, b) => Number(a) - Number(b));
  const contexts = [...new Set(shares.map(({ context }) => context))].sort((a, b) => a - b);
  const last = batches.map((batch) => shares.filter((one) => one.batch === batch).at(-1));
  const at = /** @type {const} */ ({ x: 'context', y: 'share', z: 'batch', stroke: 'batch' });
  return [
    {
      title: `${ceilingOf(report)}; one line for each batch`,
      options: {
        marginRight: 84,
        x: { type: 'log', base: 2, label: 'context, tokens' },
        y: { domain: [0, 100], label: 'share, %' },
        color: { domain: batches, range: seriesColors },
        marks: [
          gridY({ ticks: 5 }),
          axisX({ ticks: contexts, tickFormat: ',d', labelAnchor: 'center', labelOffset: 38 }),
          axisY({ ticks: 5 }),
          line(shares, { ...at, strokeWidth: 2 }),
          dot(shares, {
            x: 'context',
            y: 'share',
            fill: 'batch',
            r: 4,
            title: (one) => `${one.batch} x ${one.context}: ${number(one.time)} µs`,
          }),
          text(last, { x: 'context', y: 'share', fill: 'batch', text: (one) => `batch ${one.batch}`, dx: 10, textAnchor: 'start' }),
        ],
      },
    },
  ];
}

/** @param {BenchReport} report @returns {import('./chart.mjs').Panel[]} */
function byDtype(report) {
  const shares = sharesOf(report, 'KV dtypes').map((one) => ({ ...one, label: `${one.kv}, ${one.batch} x ${one.context}` }));
  if (shares.length === 0) return [];
  return [
    {
      title: 'by KV dtype',
      options: {
        marginLeft: 150,
        marginRight: 110,
        x: { domain: [0, 100], label: 'share, %' },
        y: { domain: shares.map(({ label }) => label), label: null, padding: 0.4 },
        marks: [
          gridX({ ticks: 5 }),
          axisX({ ticks: 5, labelAnchor: 'center', labelOffset: 38 }),
          axisY({ tickSize: 0 }),
          barX(shares, { x: 'share', y: 'label', fill: seriesColors[0] }),
          text(shares, {
            x: 'share',
            y: 'label',
            dx: 6,
            textAnchor: 'start',
            text: (one) => `${number(one.share)} %, ${number(one.time)} µs`,
          }),
          ruleX([0]),
        ],
      },
    },
  ];
}

/** @param {BenchReport} report */
function ceilingOf({ rows }) {
  const ceiling = rows.find(({ name }) => name === 'read ceiling');
  return ceiling ? `against context; 100 % is ${number(ceiling.value)} ${ceiling.unit}` : 'against context';
}

/** @param {number} value */
function number(value) {
  return Number(value.toPrecision(3)).toLocaleString('en');
}
