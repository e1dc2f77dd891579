"""Takes a backup, reads it back from the store, and says what is off."""

import json

import wit_world
from componentize_py_types import Err
from wit_world.imports import dump, report, upload
from wit_world.imports.types import Finding


class WitWorld(wit_world.WitWorld):
    def run(self, parameters: str) -> None:
        # Those that policy.toml describes; the engine has checked them against that.
        p = json.loads(parameters)
        backup = asked("dump.take", lambda: dump.take(p["service"], p["store"], dump.Options()))
        number, size = backup.id(), backup.stored_bytes()
        report.note(f"backup {number}: {size} bytes")

        sound = True
        for finding in asked("upload.verify", lambda: upload.verify(backup, p["depth"])):
            sound = sound and finding.severity != "error"
            report.add_finding(finding)
        if size < p["bytes-min"]:
            sound = False
            message = f"backup {number} has {size} bytes, fewer than {p['bytes-min']}"
            report.add_finding(Finding("small", "error", message, "see whether the service still has its data"))
        if sound:
            report.outcome("ok", f"backup {number} is in {p['store']}")
        else:
            report.outcome("verification-failed", f"backup {number} was taken, but must not be relied on")


def asked(call, ask):
    """An error of a call is raised; its words become how the run ended."""
    try:
        return ask()
    except Err as error:
        words = getattr(error.value, "value", None) or type(error.value).__name__
        raise Err(f"{call}: {words}") from None
