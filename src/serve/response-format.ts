import type { Constraint } from '../constrained/index.ts';
import { ApiError } from './errors.ts';
import type { CommonBody } from './schema.ts';
import type { HandlerOptions } from './types.ts';

/**
 * What holds the answer to the form asked for; undefined for plain text. To be destroyed when all of the request's generations have ended.
 *
 * @throws {ApiError} where the server has nothing to hold it with. @throws {ConstraintError} for a schema that cannot be.
 */
export async function constraintOf(
  format: CommonBody['response_format'],
  constraints: HandlerOptions['constraints'],
): Promise<Constraint | undefined> {
  if (!format || format.type === 'text') return undefined;
  if (!constraints) {
    const message = `"response_format" of type "${format.type}" is not supported by this server: it was started without constraints.`;
    throw new ApiError(400, { message, param: 'response_format', code: 'unsupported_parameter' });
  }
  if (format.type === 'json_object') return constraints.jsonSchema({ type: 'object' }, { strict: false });
  const { schema, strict } = format.json_schema;
  return constraints.jsonSchema(schema, { strict: strict ?? false });
}
