/** Whether a value satisfies a JSON schema, for the keywords that the specs use; others are an error, so that none is passed over. */
export function satisfies(value: unknown, schema: unknown): boolean {
  if (typeof schema === 'boolean') return schema;
  return Object.entries(schema as Record<string, unknown>).every(([keyword, rule]) => {
    const check = keywords[keyword];
    if (!check) throw new Error(`No rule for the keyword "${keyword}".`);
    return check(value, rule, schema as Record<string, unknown>);
  });
}

type Check = (value: unknown, rule: unknown, schema: Record<string, unknown>) => boolean;

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && !Array.isArray(value);

const keywords: Readonly<Record<string, Check>> = {
  type: (value, rule) => {
    if (rule === 'integer') return Number.isInteger(value);
    if (rule === 'array') return Array.isArray(value);
    if (rule === 'object') return isObject(value);
    return rule === 'null' ? value === null : typeof value === rule;
  },
  enum: (value, rule) => (rule as unknown[]).includes(value),
  maxLength: (value, rule) => typeof value !== 'string' || [...value].length <= (rule as number),
  pattern: (value, rule) => typeof value !== 'string' || new RegExp(rule as string, 'u').test(value),
  minimum: (value, rule) => typeof value !== 'number' || value >= (rule as number),
  maximum: (value, rule) => typeof value !== 'number' || value <= (rule as number),
  items: (value, rule) => !Array.isArray(value) || value.every((item) => satisfies(item, rule)),
  minItems: (value, rule) => !Array.isArray(value) || value.length >= (rule as number),
  maxItems: (value, rule) => !Array.isArray(value) || value.length <= (rule as number),
  required: (value, rule) => !isObject(value) || (rule as string[]).every((name) => Object.hasOwn(value, name)),
  // Strict, as `pagewise/constrained` is: no others.
  properties: (value, rule) =>
    !isObject(value) ||
    Object.entries(value).every(
      ([name, item]) => Object.hasOwn(rule as object, name) && satisfies(item, (rule as Record<string, unknown>)[name]),
    ),
};
