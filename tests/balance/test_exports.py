"""A method is one file in the folder of its family, one export and one test."""

from inspect import isabstract, isclass
from pathlib import Path

import pytest

import recmtl
from recmtl import balance

FOLDER = Path(balance.__file__).parent
FAMILIES = {
    "weighting": balance.LossWeightBalancer,
    "task_gradients": balance.TaskGradientBalancer,
    "representation": balance.RepresentationBalancer,
}
EXPORTED = [getattr(balance, name) for name in balance.__all__]
METHODS = [c for c in EXPORTED if isclass(c) and issubclass(c, balance.Balancer) and not isabstract(c)]
FILES = [path for family in FAMILIES for path in (FOLDER / family).glob("*.py") if path.stem != "__init__"]


def stem(method: type) -> str:
    return method.__module__.rpartition(".")[2]


@pytest.mark.parametrize("method", METHODS)
def test_each_method_has_a_file_and_a_test_of_its_name_in_the_folder_of_its_family(method: type) -> None:
    family = method.__module__.split(".")[-2]
    assert issubclass(method, FAMILIES[family])
    assert stem(method).replace("_", "") == method.__name__.lower()
    assert (Path(__file__).parent / family / f"test_{stem(method)}.py").is_file()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_file_in_a_family_exports_a_class(path: Path) -> None:
    module = f"recmtl.balance.{path.parent.name}.{path.stem}"
    assert [c for c in EXPORTED if getattr(c, "__module__", "") == module], f"{module} exports nothing"


def test_all_methods_are_at_the_top_level() -> None:
    assert {method.__name__ for method in METHODS} <= set(recmtl.__all__)
