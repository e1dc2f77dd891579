// Says if the newest verified backup is too old.
import { latest } from "lifeboat:recovery/catalog@0.1.0";
import { now } from "lifeboat:recovery/clock@0.1.0";
import { addFinding, note, outcome } from "lifeboat:recovery/report@0.1.0";

// Parameters are those that policy.toml describes; the engine has checked them against that.
export function run(parameters) {
  const { service, store, "hours-max": hoursMax } = JSON.parse(parameters);
  const newest = asked("catalog.latest", () => latest(service, store, true));
  let wrong;
  if (newest === null) {
    wrong = `${store} holds no verified backup of ${service}`;
  } else {
    const hours = Math.floor((now() - newest.takenAtMs()) / 3600000);
    note(`backup ${newest.id()} is ${hours} h old`);
    if (hours >= hoursMax) wrong = `the newest verified backup is ${hours} h old`;
  }
  if (wrong === undefined) {
    outcome("ok", "the newest verified backup is young enough");
  } else {
    addFinding({ rule: "age", severity: "error", message: wrong, fix: "see why none was taken since" });
    outcome("verification-failed", wrong);
  }
}

// An error of a call is thrown; its words become how the run ended.
function asked(call, ask) {
  try {
    return ask();
  } catch (error) {
    throw `${call}: ${error.payload?.val ?? error.payload?.tag ?? error}`;
  }
}
