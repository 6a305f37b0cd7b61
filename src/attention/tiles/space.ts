/** Which tiles tuning looks at around the default one. Pure. */

/** Most invocations of a workgroup that any device takes. */
export const anyDeviceInvocations = 256;

/** The given values, then all in which one of them, then two, are halved or doubled, as far as they stay integers. */
export function neighbours<T extends Readonly<Record<string, number>>>(centre: T): T[] {
  const steps = Object.keys(centre).flatMap((name) => [2, 0.5].map((factor) => ({ name, value: centre[name] * factor })));
  const moved = (...changes: typeof steps) => ({ ...centre, ...Object.fromEntries(changes.map(({ name, value }) => [name, value])) });
  const pairs = steps.flatMap((one, i) => steps.slice(i + 1).flatMap((other) => (other.name === one.name ? [] : [moved(one, other)])));
  return [centre, ...steps.map((step) => moved(step)), ...pairs].filter((values) => Object.values(values).every(Number.isInteger));
}
