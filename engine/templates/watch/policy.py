"""Says if the newest verified backup is too old."""

import json

import wit_world
from componentize_py_types import Err
from wit_world.imports import catalog, clock, report
from wit_world.imports.types import Finding


class WitWorld(wit_world.WitWorld):
    def run(self, parameters: str) -> None:
        # Those that policy.toml describes; the engine has checked them against that.
        p = json.loads(parameters)
        newest = asked("catalog.latest", lambda: catalog.latest(p["service"], p["store"], True))
        wrong = None
        if newest is None:
            wrong = f"{p['store']} holds no verified backup of {p['service']}"
        else:
            hours = (clock.now() - newest.taken_at_ms()) // 3_600_000
            report.note(f"backup {newest.id()} is {hours} h old")
            if hours >= p["hours-max"]:
                wrong = f"the newest verified backup is {hours} h old"
        if wrong is None:
            report.outcome("ok", "the newest verified backup is young enough")
        else:
            report.add_finding(Finding("age", "error", wrong, "see why none was taken since"))
            report.outcome("verification-failed", wrong)


def asked(call, ask):
    """An error of a call is raised; its words become how the run ended."""
    try:
        return ask()
    except Err as error:
        words = getattr(error.value, "value", None) or type(error.value).__name__
        raise Err(f"{call}: {words}") from None
