/** One job of fio, for a guest or for the host. */

/**
 * Arguments of fio but for its name: the same `job` (with its seed) writes the same bytes to the same
 * places of any file or device of that size, and they are durable when fio ends.
 */
export function planFio(filePath: string, job: readonly string[]): readonly string[] {
  // Without the last of these fio takes the same places for every seed.
  const common = [
    "--name=lab",
    "--thread",
    "--ioengine=psync",
    "--refill_buffers=1",
    "--randrepeat=0",
  ];
  return [...common, "--end_fsync=1", `--filename=${filePath}`, ...job];
}
