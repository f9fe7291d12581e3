"""The benchmark of replayed days: what is recorded is kept, means and differences over seeds, and the tables."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import replay
from docs.generators.replay_tables import replayed

DAYS = ["2024-01-02", "2024-01-03"]


def fake(seed: int, rows: int, days: int) -> dict[str, Any]:
    """Return a seed in which going on gains 0.01 and a tenth of a thousandth per seed on the second day."""
    gain = 0.01 + seed / 10_000
    aucs = {"warm": [0.7, 0.7 + gain], "anew": [0.7, 0.7], "frozen": [0.7, 0.6]}
    by_day = {mode: dict(zip(DAYS, values, strict=True)) for mode, values in aucs.items()}
    work = {mode: {c: dict.fromkeys(DAYS, 10.0) for c in ("train_rows", "table_rows", "seconds")} for mode in aucs}
    truth = {"ctr": dict.fromkeys(DAYS, 0.8)}
    return {"auc": {"ctr": by_day}, "bayes": truth, "first": truth, "work": work}


def test_seeds_are_kept_and_their_mean_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[int] = []
    monkeypatch.setattr(replay, "run", lambda seed, rows, days: run.append(seed) or fake(seed, rows, days))
    file = tmp_path / "replay.json"
    for seeds in ("2", "3", "3"):
        replay.main(["--seeds", seeds, "--json", str(file)])
    assert run == [0, 1, 2]
    found = json.loads(file.read_text())["tasks"]["ctr"]
    half = 4.302653 * 1e-4 / 3**0.5  # Student's t of two degrees of freedom, deviation 0.0001, three seeds
    gain = found["differences"]["warm − anew"]
    assert gain == pytest.approx({"estimate": 0.0101, "low": 0.0101 - half, "high": 0.0101 + half})
    text = replayed(file)
    assert text is not None
    assert "| 2024-01-02 | 0.7000 (0.7000 to 0.7000) |" in text
    assert "warm − anew **+0.0101 (+0.0099 to +0.0103)**" in text
    replay.main(["--seeds", "2", "--rows", "700", "--json", str(file)])
    assert run == [0, 1, 2, 0, 1]  # of other rows nothing is kept


def test_the_recorded_tables() -> None:
    text = replayed()
    assert text is not None
    assert text.count("| 2024-01-07 |") == 2
