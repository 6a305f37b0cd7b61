/**
 * Reports of the comparison as Markdown: a line for each case, microseconds and, in brackets, times ours.
 *
 * @param {import('../bench/report.ts').BenchReport} report
 * @returns {string}
 */
export function tableOfComparison({ runtime, host, adapter, version, commit, date, notes, rows }) {
  const names = subjectsOf(rows);
  const suffixes = ['', ', GPU time'].filter((suffix) => rows.some(({ name }) => name === `ours${suffix}`));
  const columns = suffixes.flatMap((suffix) => names.map((name) => ({ name, suffix })));
  const head = ['case', 'KV', ...columns.map(({ name, suffix }) => `${name}${suffix}`)];
  const cases = [...new Map(rows.map(({ params }) => [`${params.case} ${params.kv}`, params])).values()];
  const lines = cases.map((params) => {
    const find = (/** @type {string} */ wanted) =>
      rows.find(({ name, params: { case: one, kv } }) => name === wanted && one === params.case && kv === params.kv);
    const cells = columns.map(({ name, suffix }) => {
      const time = find(`${name}${suffix}`);
      const ratio = find(`${name} / ours${suffix}`);
      return time ? `${figure(time.value)}${ratio ? ` (${figure(ratio.value)}x)` : ''}` : '';
    });
    return [String(params.case), String(params.kv), ...cells];
  });
  const titles = `${runtime} (${host}) on ${adapter}; Pagewise ${version}, commit ${commit}, ${date}. Microseconds for each layer; in brackets, times ours.`;
  const rule = head.map((_, column) => (column < 2 ? '---' : '---:'));
  return [titles, '', ...[head, rule, ...lines].map((cells) => `| ${cells.join(' | ')} |`), '', ...notes.map((note) => `- ${note}`)].join(
    '\n',
  );
}

/** Ours first. @param {import('../bench/report.ts').BenchReport['rows']} rows */
function subjectsOf(rows) {
  return [...new Set(rows.filter(({ name, unit }) => unit === 'us' && !name.includes(',')).map(({ name }) => name))];
}

/** Three digits. @param {number} value */
function figure(value) {
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}
