"""Train on the days up to one, and measure on the next: what a model learns and forgets day by day."""

from recmtl.replays.results import Replay
from recmtl.replays.runner import replay

__all__ = ["Replay", "replay"]
