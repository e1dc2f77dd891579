// Takes a backup, reads it back from the store, and says what is off.
import { Options, take } from "lifeboat:recovery/dump@0.1.0";
import { addFinding, note, outcome } from "lifeboat:recovery/report@0.1.0";
import { verify } from "lifeboat:recovery/upload@0.1.0";

// Parameters are those that policy.toml describes; the engine has checked them against that.
export function run(parameters) {
  const { service, store, depth, "bytes-min": bytesMin } = JSON.parse(parameters);
  const backup = asked("dump.take", () => take(service, store, new Options()));
  const [id, bytes] = [backup.id(), backup.storedBytes()];
  note(`backup ${id}: ${bytes} bytes`);

  let sound = true;
  for (const finding of asked("upload.verify", () => verify(backup, depth))) {
    sound &&= finding.severity !== "error";
    addFinding(finding);
  }
  if (bytes < bytesMin) {
    sound = false;
    addFinding({
      rule: "small",
      severity: "error",
      message: `backup ${id} has ${bytes} bytes, fewer than ${bytesMin}`,
      fix: "see whether the service still has its data",
    });
  }
  if (sound) outcome("ok", `backup ${id} is in ${store}`);
  else outcome("verification-failed", `backup ${id} was taken, but must not be relied on`);
}

// An error of a call is thrown; its words become how the run ended.
function asked(call, ask) {
  try {
    return ask();
  } catch (error) {
    throw `${call}: ${error.payload?.val ?? error.payload?.tag ?? error}`;
  }
}
