"""Write `options.json`, the list of all commands and options, from the real parsers.

python -m recmtl.cli.write_catalogue
"""

from __future__ import annotations

import json
from typing import Any

from recmtl.cli.catalogue import FILE
from recmtl.cli.option_help import describe_parser
from recmtl.cli.parser import parser_of

COMMANDS = (
    "demo",
    "synth",
    "describe",
    "prepare",
    "train",
    "tune",
    "compare",
    "reproduce",
    "replay",
    "evaluate",
    "calibrate",
    "predict",
    "export",
    "report",
    "serve",
    "plan",
    "cache",
)


def current_catalogue() -> dict[str, Any]:
    """Return the list as the parsers are now."""
    return {name: describe_parser(parser_of(name)) for name in COMMANDS}


if __name__ == "__main__":
    FILE.write_text(json.dumps(current_catalogue(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
