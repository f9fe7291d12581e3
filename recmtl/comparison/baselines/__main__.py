"""The process of a baseline of a comparison: python -m recmtl.comparison.baselines --config RECIPE --run FOLDER."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from recmtl.comparison.baselines.run import run_baseline
from recmtl.io.untrusted import from_yaml, read_text


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit the baseline that a recipe names; an error is one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    given = parser.parse_args(arguments)
    try:
        run_baseline(from_yaml(read_text(given.config)), given.run)
    except (ValueError, TypeError, MemoryError, OSError) as error:
        sys.exit(f"recmtl: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
