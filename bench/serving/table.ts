import { type ServingFigures, type Summary, summaryOf } from './arithmetic.ts';

const width = 50;

/** The lines of the original's table, in its order and form. */
export function servingTable(figures: ServingFigures): string[] {
  const { completed, duration, inputTokens, outputTokens, requestThroughput, goodput, outputThroughput, totalThroughput } = figures;
  return [
    heading(' Serving Benchmark Result ', '='),
    line('Successful requests:', completed),
    line('Benchmark duration (s):', duration.toFixed(2)),
    line('Total input tokens:', inputTokens),
    line('Total generated tokens:', outputTokens),
    line('Request throughput (req/s):', requestThroughput.toFixed(2)),
    ...(goodput === undefined ? [] : [line('Request goodput (req/s):', goodput.toFixed(2))]),
    line('Output token throughput (tok/s):', outputThroughput.toFixed(2)),
    line('Total Token throughput (tok/s):', totalThroughput.toFixed(2)),
    heading('Time to First Token', '-'),
    ...times('TTFT', summaryOf(figures.ttft)),
    heading('Time per Output Token (excl. 1st token)', '-'),
    ...times('TPOT', summaryOf(figures.tpot)),
    heading('Inter-token Latency', '-'),
    ...times('ITL', summaryOf(figures.itl)),
    '='.repeat(width),
  ];
}

function times(name: string, { mean, median, p99 }: Summary): string[] {
  return [
    line(`Mean ${name} (ms):`, mean.toFixed(2)),
    line(`Median ${name} (ms):`, median.toFixed(2)),
    line(`P99 ${name} (ms):`, p99.toFixed(2)),
  ];
}

function line(label: string, value: number | string): string {
  return `${label.padEnd(40)} ${String(value).padEnd(10)}`;
}

/** A text in the middle of a line; where it cannot be, to its left, as Python's `format` has it. */
function heading(text: string, fill: string): string {
  const left = Math.floor((width - text.length) / 2);
  return fill.repeat(left) + text + fill.repeat(width - text.length - left);
}
