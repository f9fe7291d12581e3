"""The `export` command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recmtl.cli.console import print_line
from recmtl.serving.export import export_model
from recmtl.serving.graph import Format


def export_command(run: Path, out: Path, format: Format = "onnx", trust: Sequence[str] = ()) -> None:  # noqa: A002
    """Write the best weights of a run as a folder that scores raw rows without recmtl.

    Args:
        run: The run folder.
        out: The folder to write, which must not exist yet or be empty.
        format: `onnx`, which needs the extra of that name, or `torch` for a program of `torch.export`.
        trust: A further module whose classes the run's recipe may name; may be repeated.
    """
    found = export_model(run, out, format, trust)
    print_line(f"on {found.rows:,} generated rows predictions differ from the run's by at most {found.difference:.1e}")
    print_line(f"{found.size:,} bytes of network · model in {found.folder}")
