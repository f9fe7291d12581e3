"""The tables of `benchmarks.replay`: AUC by day of runs that go on, begin anew, or stay as they are."""

import json
from pathlib import Path
from typing import Any

from docs.generators.markdown import machine, table

RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "replay.json"


def replayed(file: Path = RECORD) -> str | None:
    """Return the tables of the recorded replay, or None without a record."""
    if not file.exists():
        return None
    content = json.loads(file.read_text())
    about = f"{content['days']} days of {content['rows'] // content['days']:,} rows · {len(content['seeds'])} seeds"
    parts = [machine(content), about]
    for task, found in content["tasks"].items():
        modes = list(found["by_day"])
        lines = [
            (day, *(interval(found["by_day"][mode][day]) for mode in modes), f"{found['bayes'][day]:.4f}")
            for day in found["bayes"]
        ]
        parts.append(table([f"AUC of {task} on", *modes, "true probabilities"], lines))
        gains = [f"{name} {difference(between)}" for name, between in found["differences"].items()]
        parts.append(f"Mean difference of {task} from the second measured day on: {' · '.join(gains)}")
    modes = list(content["work"])
    last = max(content["work"][modes[0]]["seconds"])
    cells = [
        (mode, *(f"{content['work'][mode][column][last]:,.0f}" for column in ("train_rows", "table_rows", "seconds")))
        for mode in modes
    ]
    parts.append(table([f"the run of {last}", "training rows", "rows of the tables", "seconds of training"], cells))
    return "\n\n".join(parts)


def interval(found: dict[str, Any]) -> str:
    """Return a mean with its interval."""
    return "{estimate:.4f} ({low:.4f} to {high:.4f})".format(**found)


def difference(found: dict[str, Any]) -> str:
    """Return a difference with its interval, in bold if the interval does not hold 0."""
    text = "{estimate:+.4f} ({low:+.4f} to {high:+.4f})".format(**found).replace("-", "−")
    return text if found["low"] <= 0 <= found["high"] else f"**{text}**"
