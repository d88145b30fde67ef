/** How deep a verification goes, as command lines say it. */
import type { VerifyDepth } from "#vault/verify.ts";
import type { CommandInput, OptionSpec } from "#cli/command.ts";

const depths: readonly VerifyDepth[] = ["structure", "objects", "full"];

/** Option of every command that verifies. */
export const depthOption: OptionSpec = {
  flags: "--depth <depth>",
  text:
    "structure: that every block lies in a pack that is there; objects: every object by its name; " +
    "full: every frame and block as well",
  choices: depths,
  otherwise: "full",
};

/** The depth that a command line asks for; `undefined` where it does not say. */
export function depthOf(input: CommandInput): VerifyDepth | undefined {
  return depths.find((depth) => depth === input.text("depth"));
}
