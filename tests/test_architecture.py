"""The tree: folders in one order, no cycle between files, and files that can be read in one sitting."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from benchmarks.structure import files_entered

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "recmtl"
MODULES = sorted(PACKAGE.rglob("*.py"))
# A file imports only from its own folder and from those that stand before it.
ORDER = (
    "_version",
    "errors",
    "did_you_mean",
    "io",
    "balance",
    "layers",
    "schema",
    "data",
    "runs",
    "evaluate",
    "calibration",
    "features",
    "models",
    "callbacks",
    "train",
    "recipe",
    "serving",
    "tuning",
    "comparison",
    "reproduction",
    "replays",
    "report",
    "plan",
    "cli",
    "__main__",
)
FACADE = PACKAGE / "__init__.py"  # names what is public, and loads it when it is used
MOST_FILES, MOST_LINES = 26, 350
MOST_ENTERED = {"step": 22, "fit": 65, "prepare": 33}  # files of the package whose functions a call enters
HEAVY = ("pandas", "pyarrow", "sklearn", "scipy", "matplotlib")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NAMES = {module_name(path): path for path in MODULES}


def imported(path: Path) -> Iterator[Path]:
    """The files of recmtl that a file imports, wherever in it, also under `TYPE_CHECKING`."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            found = NAMES.get(name) or NAMES.get(name.rpartition(".")[0])
            # A function may have the name of the file that holds it: its folder exports it.
            exported = isinstance(node, ast.ImportFrom) and name in NAMES and name.rpartition(".")[2] in exports(name)
            if found is not None:
                yield NAMES[name.rpartition(".")[0]] if exported else found


def exports(name: str) -> set[str]:
    """What the folder around a module imports from its files."""
    path = NAMES[name.rpartition(".")[0]]
    nodes = ast.parse(path.read_text()).body
    return {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downward(path: Path) -> None:
    if path == FACADE:
        return
    place = ORDER.index(part(path))
    for other in imported(path):
        if other == FACADE:
            pytest.fail(f"{path} imports the whole package")
        assert ORDER.index(part(other)) <= place, other


def test_no_files_import_each_other_in_a_circle() -> None:
    sorter = TopologicalSorter({path: set(imported(path)) - {path} for path in MODULES})
    try:
        sorter.prepare()
    except CycleError as error:
        pytest.fail(" → ".join(module_name(path) for path in error.args[1]))


def test_balance_needs_torch_alone() -> None:
    code = (
        "import sys; before = set(sys.modules); import torch; known = set(sys.modules); import recmtl.balance; "
        "print(*{name.split('.')[0] for name in set(sys.modules) - known})"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "recmtl" in loaded.stdout.split()
    assert set(loaded.stdout.split()) <= {"recmtl", "lazy_loader", "torch"} | set(sys.stdlib_module_names)


def test_balance_imports_torch_and_the_standard_library_alone() -> None:
    for path in (PACKAGE / "balance").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                roots = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                roots = {(node.module or "").split(".")[0]}
            else:
                continue
            assert roots <= {"torch", "recmtl"} | set(sys.stdlib_module_names), path


def test_importing_loads_nothing_that_is_not_used() -> None:
    """One module after the other; what training needs not is loaded where rows are searched, generated or drawn."""
    wanted = {"recmtl": HEAVY, "recmtl.balance": HEAVY, "recmtl.cli.train": ("sklearn", "scipy.stats")}
    lines = [f"import {name}; found += [n for n in {heavy!r} if n in sys.modules]" for name, heavy in wanted.items()]
    code = "\n".join(["import sys; found = []", *lines, "print(*found)"])
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert loaded.stdout.split() == []


def test_preparing_needs_no_torch() -> None:
    code = (
        "import sys, recmtl.cli.running, recmtl.cli.prepare; recmtl.prepare; "
        "print(*{'torch', 'scipy', 'matplotlib'} & set(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert loaded.stdout.split() == []


@pytest.mark.parametrize("path", [PACKAGE, *(p for p in PACKAGE.rglob("*") if p.is_dir())], ids=str)
def test_a_folder_can_be_surveyed(path: Path) -> None:
    assert len(list(path.glob("*.py"))) <= MOST_FILES


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_reads_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES


def test_test_files_have_different_names() -> None:
    """pytest imports two files of one name as one module."""
    names = [path.name for path in ROOT.glob("tests/**/*.py") if path.name != "conftest.py"]
    assert [name for name in names if names.count(name) > 1] == []


def test_a_call_enters_few_files() -> None:
    entered = files_entered()
    for call, most in MOST_ENTERED.items():
        assert len(entered[call]) <= most, entered[call]
