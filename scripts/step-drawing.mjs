import { areaY, axisX, axisY, dot, gridY, line, text } from '@observablehq/plot';
import { captionOf, drawChart, seriesColors } from './chart.mjs';

/**
 * @typedef {import('../bench/report.ts').BenchReport} BenchReport
 *
 * @typedef {object} Point
 * @property {string} part of a step
 * @property {number} at sequences, or tokens
 * @property {number} value milliseconds, the median
 * @property {number} p10
 * @property {number} p90
 */

/** Rows of the bench and what they are called in the picture. */
const parts = /** @type {const} */ ([
  ['host-time', 'whole step'],
  ['record-time', 'plan and record'],
  ['plan-time', 'plan'],
]);

/** Host time of a decode step: against the number of sequences, and against the length of their context. @param {readonly BenchReport[]} reports @throws {Error} for a report without them */
export function drawSteps(reports) {
  return drawChart(
    'A decode step: host time in milliseconds, medians with their first and last deciles',
    reports.map((report) => {
      const points = [pointsOf(report, 'batch'), pointsOf(report, 'context')];
      if (points.some((one) => one.length === 0)) throw new Error(`The report of ${report.runtime} has no rows of a step's host time.`);
      const most = Math.max(...points.flat().map(({ p90 }) => p90));
      return {
        ...captionOf(report),
        panels: [
          panelOf(points[0], `against batch, context ${fixedOf(report, 'batch', 'context')}`, 'sequences', 'linear', most),
          panelOf(points[1], `against context, batch ${fixedOf(report, 'context', 'batch')}`, 'tokens in each sequence', 'log', most),
        ],
      };
    }),
  );
}

/** On a software adapter a submit may do the GPU's work, which is no host time. @param {BenchReport} report @param {string} sweep @returns {Point[]} */
function pointsOf({ rows, software }, sweep) {
  return parts.flatMap(([name, part]) =>
    rows.flatMap((row) => {
      if (row.name !== name || row.params.sweep !== sweep || (software && name === 'host-time')) return [];
      return [{ part, at: Number(row.params[sweep]), value: row.value, p10: row.p10, p90: row.p90 }];
    }),
  );
}

/** What stays the same along an axis. @param {BenchReport} report @param {string} sweep @param {string} name */
function fixedOf({ rows }, sweep, name) {
  return rows.find(({ params }) => params.sweep === sweep)?.params[name];
}

/**
 * @param {readonly Point[]} points @param {string} title @param {string} label @param {'linear' | 'log'} type
 * @param {number} most milliseconds on the axis @returns {import('./chart.mjs').Panel}
 */
function panelOf(points, title, label, type, most) {
  const ticks = [...new Set(points.map(({ at }) => at))];
  const last = parts.flatMap(([, part]) => points.filter((one) => one.part === part).at(-1) ?? []);
  return {
    title,
    options: {
      marginRight: 104,
      x: type === 'log' ? { type, base: 2, label } : { type, label, domain: [0, Math.max(...ticks)] },
      y: { domain: [0, most], nice: true, label: 'ms' },
      color: { domain: parts.map(([, part]) => part), range: seriesColors },
      marks: [
        gridY(),
        axisX({
          ticks: type === 'log' ? ticks : ticks.filter((tick) => tick % 8 === 0 || tick === 1),
          tickFormat: ',d',
          labelAnchor: 'center',
          labelOffset: 38,
        }),
        axisY(),
        areaY(points, { x: 'at', y1: 'p10', y2: 'p90', fill: 'part', fillOpacity: 0.15 }),
        line(points, { x: 'at', y: 'value', stroke: 'part', strokeWidth: 2 }),
        dot(points, { x: 'at', y: 'value', fill: 'part', r: 3.5, title: (one) => `${one.part}, ${one.at}: ${one.value} ms` }),
        text(last, { x: 'at', y: 'value', fill: 'part', text: 'part', dx: 8, textAnchor: 'start' }),
      ],
    },
  };
}
