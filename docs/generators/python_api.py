"""The reference of the Python interface, from what each package exports."""

import importlib
import inspect
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import recmtl
from docs.generators.balancers import file_of as balancer_file
from docs.generators.balancers import names as balancer_names
from docs.generators.markdown import cell, table
from recmtl.balance import Balancer

# In the order of the navigation. A name is documented on the page of the first package that holds it.
PACKAGES = (
    "recmtl.schema",
    "recmtl.data",
    "recmtl.features",
    "recmtl.layers",
    "recmtl.models",
    "recmtl.balance",
    "recmtl.callbacks",
    "recmtl.train",
    "recmtl.evaluate",
    "recmtl.evaluate.figures",
    "recmtl.calibration",
    "recmtl.tuning",
    "recmtl.comparison",
    "recmtl.reproduction",
    "recmtl.replays",
    "recmtl.report",
    "recmtl.recipe",
    "recmtl.serving",
    "recmtl.runs",
    "recmtl.errors",
)
# In the search, pages that explain come before those that list.
BEHIND = "---\nsearch: {boost: 0.4}\n---\n"


def exports(package: ModuleType) -> list[str]:
    """Return the public names of a module: those of its `__all__`, or of its source, and what `recmtl` takes of it."""
    taken = [name for name in recmtl.__all__ if home(name, getattr(recmtl, name)) == package.__name__]
    if hasattr(package, "__all__"):
        return sorted({*package.__all__, *taken}, key=str.lower)
    own = {name: value for name, value in vars(package).items() if getattr(value, "__module__", "") == package.__name__}
    return list(dict.fromkeys([*(name for name in own if not name.startswith("_")), *taken]))


def stem(package: str) -> str:
    """Return the name of the page of a package, without its ending."""
    return package.removeprefix("recmtl.").replace(".", "_")


@cache
def modules() -> dict[str, str]:
    """Return the module that each name of the top level is imported from, as its stub says."""
    stub = (Path(recmtl.__file__).parent / "__init__.pyi").read_text()
    found = re.findall(r"^from \.([\w.]+) import (\(.*?\)|[^(]*?)$", stub, re.MULTILINE | re.DOTALL)
    return {name: f"recmtl.{module}" for module, names in found for name in re.findall(r"\w+", names)}


def module_of(name: str, value: object) -> str:
    """Return the module that defines a value; of a type alias, the one that it is imported from."""
    module = getattr(value, "__module__", None) or ""
    return module if module.startswith("recmtl") else modules().get(name, "")


def home(name: str, value: object) -> str:
    """Return the package that documents a value: the first that holds its module."""
    module = module_of(name, value)
    return next((package for package in reversed(PACKAGES) if f"{module}.".startswith(f"{package}.")), "")


def path(package: str, name: str, value: object) -> str:
    """Return the path by which the reference names a value: that of its definition, if it has one."""
    defined = (getattr(value, "__module__", None) or "").startswith("recmtl")
    return f"{module_of(name, value) or package}.{getattr(value, '__qualname__', name) if defined else name}"


def summary(value: object) -> str:
    """Return the first sentence of a docstring."""
    defined = inspect.isclass(value) or inspect.isroutine(value)
    return (inspect.getdoc(value) or "").split("\n\n")[0] if defined else ""


def pages() -> dict[str, str]:
    """Return a page per package and one for the top level, by path."""
    found = {"reference/python/index.md": top_level()}
    documented: set[str] = set()
    for package in PACKAGES:
        module = importlib.import_module(package)
        parts = [BEHIND, f"# {package}", "", f"{inspect.getdoc(module)}", ""]
        methods = []
        for name in exports(module):
            value = getattr(module, name, None)
            if value is None or inspect.ismodule(value):  # a function may be named as the file that defines it
                value = getattr(recmtl, name, value)
            identifier = path(package, name, value)
            if inspect.ismodule(value) or identifier in documented or home(name, value) not in ("", package):
                continue
            documented.add(identifier)
            if name in balancer_names() and inspect.isclass(value) and issubclass(value, Balancer):
                methods.append(name)
            else:
                parts += [f"::: {identifier}", ""]
        if methods:
            rows = [
                (f"[`{name}`](../../{balancer_file(name)})", cell(summary(getattr(module, name)))) for name in methods
            ]
            parts[5:5] = [
                "Each balancer has [a page of its own](../../balancers/index.md):",
                "",
                table(["", ""], rows, 2),
                "",
            ]
        found[f"reference/python/{stem(package)}.md"] = "\n".join(parts)
    return found


def top_level() -> str:
    """Return the page of what `import recmtl` gives."""
    rows = []
    for name in sorted(recmtl.__all__, key=str.lower):
        value = getattr(recmtl, name)
        rows.append((f"[`{name}`][{path('recmtl', name, value)}]", cell(summary(value))))
    return f"""{BEHIND}
# recmtl

{inspect.getdoc(recmtl)}

What `import recmtl` gives:

{table(["name", "what it is"], rows, right=2)}

More stands in the packages below it. What is not on these pages is private and may change.
"""
