"""Imports run downward only, and every file can be read in one sitting."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "recmtl"
MODULES = sorted(PACKAGE.rglob("*.py"))
# What each part of the package may import of the others.
BELOW = {
    "schema": set(),
    "balance": set(),
    "layers": set(),
    "data": {"schema"},
    "features": {"layers", "data", "schema"},
    "models": {"features", "layers", "data", "schema"},
    "evaluate": {"data", "schema"},
    "train": {"models", "evaluate", "features", "layers", "data", "schema", "balance"},
    "shipped": {"schema"},
    "trust": {"train"},
    "environment": set(),
    "checked": {"schema"},
    "recipe": {
        "trust",
        "checked",
        "environment",
        "train",
        "models",
        "features",
        "data",
        "schema",
        "balance",
        "shipped",
    },
    "console": {"data", "evaluate", "train"},
    "arguments": set(),
    "messages": set(),
    "comparison": {"trust", "recipe", "train", "evaluate", "data", "schema", "console"},
    "report": {"recipe", "train", "evaluate", "data", "schema", "console"},
    "preparing": {"data", "shipped", "console", "arguments"},
    "training": {"trust", "environment", "recipe", "train", "balance", "evaluate", "console", "arguments"},
    "measuring": {"recipe", "train", "evaluate", "data", "schema", "shipped", "console", "arguments"},
    "comparing": {"comparison", "recipe", "arguments"},
    "inspection": {"data", "schema", "shipped", "console"},
    "demo": {"data", "evaluate", "recipe", "preparing", "training", "console"},
    "cli": {
        "recipe",
        "train",
        "balance",
        "data",
        "schema",
        "console",
        "demo",
        "messages",
        "arguments",
        "inspection",
        "preparing",
        "training",
        "measuring",
        "comparing",
        "report",
    },
    "__main__": {"cli"},
}


def part(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The parts of recmtl that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            pytest.fail(f"{path} has a relative import")
    return {name.split(".")[1] for name in names if name.startswith("recmtl.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downward(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        return
    allowed = BELOW[part(path)] | {part(path)}
    assert imported(path) <= allowed


def test_balance_imports_torch_and_the_standard_library_alone() -> None:
    import sys

    for path in (PACKAGE / "balance").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                roots = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                roots = {(node.module or "").split(".")[0]}
            else:
                continue
            assert roots <= {"torch", "recmtl"} | set(sys.stdlib_module_names), path


def test_what_a_layer_shares_is_what_a_balancer_takes() -> None:
    """The two may not import each other; their fields agree."""
    from recmtl.balance import Leaf
    from recmtl.layers import SharedTensor

    assert SharedTensor._fields == Leaf._fields
    assert SharedTensor._field_defaults == Leaf._field_defaults


def test_the_schema_knows_no_torch() -> None:
    for path in (PACKAGE / "schema").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "torch" for name in names), path


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_reads_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 350
