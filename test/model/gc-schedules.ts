/**
 * Runs schedules of the simulation of collections, and prints what they came to as JSON:
 *
 *   node gc-schedules.ts SEED COUNT
 */
import { runSchedule } from "#testing/gc-schedule.ts";
import { mix32 } from "#testing/seed.ts";

const [seed = 0, count = 0] = process.argv.slice(2).map(Number);
let commits = 0;
const problems: string[] = [];
for (let at = 0; at < count && problems.length === 0; at++) {
  const scheduleSeed = mix32(seed + at);
  const end = runSchedule(scheduleSeed);
  commits += end.commits;
  if (end.problem !== undefined) problems.push(`schedule ${scheduleSeed}: ${end.problem}`);
}
console.log(JSON.stringify({ commits, problems }));
