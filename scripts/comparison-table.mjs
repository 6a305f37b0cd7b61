/**
 * Reports of the comparison as Markdown: of attention a line for each case, of the whole model one for each way to decode it.
 *
 * @param {import('../bench/report.ts').BenchReport} report
 * @returns {string}
 */
export function tableOfComparison({ runtime, host, adapter, version, commit, date, notes, rows }) {
  const title = `${runtime} (${host}) on ${adapter}; Pagewise ${version}, commit ${commit}, ${date}.`;
  const attention = rows.filter(({ params }) => params.case !== wholeModel);
  const decoding = rows.filter(({ params }) => params.case === wholeModel);
  return [
    title,
    ...(attention.length > 0 ? ['', 'Microseconds for each layer; in brackets, times ours.', '', ...linesOfAttention(attention)] : []),
    ...(decoding.length > 0 ? ['', 'The whole model; in brackets, the time as times ours.', '', ...linesOfDecoding(decoding)] : []),
    '',
    ...notes.map((note) => `- ${note}`),
  ].join('\n');
}

const wholeModel = 'whole model';

/** @typedef {import('../bench/report.ts').BenchReport['rows']} Rows */

/** @param {Rows} rows */
function linesOfAttention(rows) {
  const names = subjectsOf(rows);
  const suffixes = ['', ', GPU time'].filter((suffix) => rows.some(({ name }) => name === `ours${suffix}`));
  const columns = suffixes.flatMap((suffix) => names.map((name) => ({ name, suffix })));
  const head = ['case', 'KV', ...columns.map(({ name, suffix }) => `${name}${suffix}`)];
  const cases = [...new Map(rows.map(({ params }) => [`${params.case} ${params.kv}`, params])).values()];
  const lines = cases.map((params) => {
    const own = rows.filter(({ params: { case: one, kv } }) => one === params.case && kv === params.kv);
    const cells = columns.map(({ name, suffix }) => withRatio(own, `${name}${suffix}`, `${name} / ours${suffix}`));
    return [String(params.case), String(params.kv), ...cells];
  });
  return table(head, 2, lines);
}

/** @param {Rows} rows */
function linesOfDecoding(rows) {
  const ways = rows.filter(({ unit }) => unit === 'tokens/s');
  const lines = ways.map(({ name, params }) => {
    const own = rows.filter((row) => row.params.kv === params.kv);
    const token = withRatio(own, `${name}, per token`, `${name} / ours`);
    const first = withRatio(own, `${name}, first token`, `${name} / ours, first token`);
    return [name, String(params.kv), withRatio(own, name), token, first];
  });
  return table(['', 'KV', 'tokens/s', 'ms per token', 'ms to the first token'], 2, lines);
}

/** The figure of a row and, in brackets, that of its ratio; nothing where there is none. @param {Rows} rows @param {string} name @param {string} [ratioName] */
function withRatio(rows, name, ratioName) {
  const row = rows.find((one) => one.name === name);
  const ratio = rows.find((one) => one.name === ratioName);
  return row ? `${figure(row.value)}${ratio ? ` (${figure(ratio.value)}x)` : ''}` : '';
}

/** @param {readonly string[]} head @param {number} texts columns of text, before those of figures @param {readonly (readonly string[])[]} lines */
function table(head, texts, lines) {
  const rule = head.map((_, column) => (column < texts ? '---' : '---:'));
  return [head, rule, ...lines].map((cells) => `| ${cells.join(' | ')} |`);
}

/** Ours first. @param {Rows} rows */
function subjectsOf(rows) {
  return [...new Set(rows.filter(({ name, unit }) => unit === 'us' && !name.includes(',')).map(({ name }) => name))];
}

/** Three digits. @param {number} value */
function figure(value) {
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}
