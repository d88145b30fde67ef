/** What was done side by side and all waited for. */

/** The value of a settled promise; throws what it was rejected with. */
export function valueOf<T>(result: PromiseSettledResult<T>): T {
  if (result.status === "rejected") throw result.reason;
  return result.value;
}
