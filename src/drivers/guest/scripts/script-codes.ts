/** The codes of the script framework and the names that users know; docs/design/extension.md. */

/** What can be wrong, by result code; where there is no name it is no error of the user's. */
export const scriptErrorNames = {
  300: "Pre-ScriptExecutionFailed",
  301: "Post-ScriptExecutionFailed",
  302: "Pre-ScriptNotFound",
  303: "Post-ScriptNotFound",
  304: "IncorrectPluginhostFile",
  305: "IncorrectJSONConfigFile",
  306: "InsufficientPermissionforPre-Script",
  307: "InsufficientPermissionforPost-Script",
  308: "Pre-ScriptTimeout",
  309: "Post-ScriptTimeout",
  310: "Pre-ScriptTimeout",
  311: "Post-ScriptTimeout",
  313: "IncorrectPluginhostFile",
  314: "IncorrectPluginhostFile",
  315: "IncorrectPluginhostFile",
  316: "NotConfigured",
  317: "IncorrectJSONConfigFile",
  318: "IncorrectJSONConfigFile",
} as const;

/** A code of the script framework that is not success. */
export type ScriptErrorCode = keyof typeof scriptErrorNames;

/** Both scripts succeeded and the point is application-consistent. */
export const APPLICATION_CONSISTENT = 0;
/** The scripts succeeded, but the point is less all the same; the reason is in its record. */
export const SUCCESS = 1;
/** No scripts are configured. */
export const NOT_CONFIGURED = 316;
