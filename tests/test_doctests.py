"""The examples in docstrings run."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import recmtl

MODULES = [m.name for m in pkgutil.walk_packages(recmtl.__path__, "recmtl.") if not m.name.endswith("__main__")]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, extraglobs={"torch": torch})
    assert failed == 0
