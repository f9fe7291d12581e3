"""All that is generated for the site: pages, figures, and their places in the navigation."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docs.generators import (
    balancers,
    benchmark_tables,
    claims_tables,
    commands,
    dataset_tables,
    diagrams,
    gallery,
    python_api,
    serving_tables,
)

ROOT = Path(__file__).parents[2]


def generated_pages() -> dict[str, str]:
    """Return the Markdown of all generated pages but the gallery, by path."""
    return {
        **balancers.pages(),
        **commands.pages(),
        **python_api.pages(),
        "benchmarks.md": benchmark_tables.page(),
        "gpu_expected.md": (ROOT / "benchmarks" / "results" / "gpu_expected.md").read_text(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(),
    }


# What a line `<!-- generated: NAME -->` of a page stands for.
INSERTS: dict[str, Callable[[], str | None]] = {
    "choice of a balancer": claims_tables.choice,
    "claims": claims_tables.claims,
    "pareto": claims_tables.pareto,
    "comparison census": lambda: benchmark_tables.comparison("comparison_census"),
    "comparison balancers": lambda: benchmark_tables.comparison("comparison_balancers"),
    "comparison aliexpress": lambda: benchmark_tables.comparison("comparison_aliexpress"),
    "tuned census": lambda: benchmark_tables.comparison("tuned_census"),
    "tuned aliexpress": lambda: benchmark_tables.comparison("tuned_aliexpress"),
    "served over HTTP": serving_tables.over_http,
    "requests": serving_tables.in_python,
    "table of public datasets": dataset_tables.overview,
    "sections of public datasets": dataset_tables.sections,
    "published figures": dataset_tables.figures,
    "diagram of MMOE and OMoE": diagrams.omoe,
    "diagram of PLE": diagrams.ple,
    "diagram of STEM": diagrams.stem,
    "diagram of AITM": diagrams.aitm,
    "diagram of ESCM2": diagrams.escm2,
    "diagram of STAR": diagrams.star,
    "diagram of PEPNet": diagrams.pepnet,
    "diagram of cross layers": diagrams.cross_layers,
    "diagram of target attention": diagrams.target_attention,
}


def with_inserts(markdown: str) -> str:
    """Return a page with its generated tables.

    Raises:
        KeyError: If a page asks for a table that does not exist.
    """
    return re.sub(r"<!-- generated: ([\w ]+) -->", lambda found: INSERTS[found[1]]() or "", markdown)


def generated_files() -> dict[str, str | bytes]:
    """Return all generated files, figures included, by path."""
    return {**generated_pages(), **gallery.files()}


def generated_nav() -> dict[str, list[Any]]:
    """Return the navigation of each group of generated pages, by the name that mkdocs.yml gives it."""
    methods = [{name: balancers.file_of(name)} for name in balancers.names()]
    of_commands = [{f"recmtl {name}": commands.file_of(name)} for name in commands.names()]
    packages = [{name: f"reference/python/{python_api.stem(name)}.md"} for name in python_api.PACKAGES]
    return {
        "generated/balancers": ["balancers/index.md", *methods],
        "generated/commands": ["reference/commands/index.md", *of_commands],
        "generated/python": ["reference/python/index.md", *packages],
    }
