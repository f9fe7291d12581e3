"""Contexts without a training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recmtl.callbacks import TrainingContext


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., TrainingContext]:
    """A context after one of ten steps, of a run in `tmp_path`; other values by name."""

    def make(**other: Any) -> TrainingContext:
        values = {"folder": tmp_path, "epoch": 1, "epochs": 2, "step": 1, "steps": 10, "value": 0.7, "best": 0.7}
        plain = {"model": torch.nn.Identity(), "options": {}, "monitor": "auc", "higher_is_better": True, "records": []}
        asked = {"measure": dict, "log": dict, "stop": str}
        return TrainingContext(**(values | plain | asked | other))

    return make
