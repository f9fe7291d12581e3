"""How hard the package is to find one's way in: its size, the files that a call enters, start-up times, docstrings.

python -m benchmarks.structure            size, files entered, and start-up beside `import torch`
python -m benchmarks.structure docstrings the first line of every docstring, to be read as one list
python -m benchmarks.structure names      names that two files define
"""

from __future__ import annotations

import ast
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "recmtl"
ROUNDS = 5
TORCH = [sys.executable, "-c", "import torch"]
START_UP = {
    "import recmtl": [sys.executable, "-c", "import recmtl"],
    "recmtl --help": [sys.executable, "-m", "recmtl", "--help"],
    "recmtl --version": [sys.executable, "-m", "recmtl", "--version"],
    "a mistyped command": [sys.executable, "-m", "recmtl", "trian"],
    "a mistyped option": [sys.executable, "-m", "recmtl", "train", "--trainer.epoch", "3"],
    "recmtl train --help": [sys.executable, "-m", "recmtl", "train", "--help"],
}


def entered(work: Callable[[], object]) -> list[str]:
    """The files of the package whose functions a call enters."""
    found: set[str] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            found.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return sorted(str(Path(f).relative_to(PACKAGE)) for f in found if f.startswith(str(PACKAGE)))


def files_entered() -> dict[str, list[str]]:
    """The files that `prepare`, `fit` and one training step enter; all that is loaded lazily is loaded before."""
    import torch

    import recmtl
    from recmtl.data.synthetic.generate import synthesize
    from recmtl.train.step import Step

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        synthesize(folder, 2000)
        train, valid, test = (folder / f"{split}.csv" for split in ("train", "valid", "test"))
        card = recmtl.card("aliexpress")
        recmtl.prepare(card, train, valid, test, out=folder / "before")
        data: Any = None

        def prepare() -> None:
            nonlocal data
            data = recmtl.prepare(card, train, valid, test, out=folder / "prepared")

        found = {"prepare": entered(prepare)}

        def trainer(run: str) -> recmtl.Trainer:
            model = recmtl.SharedBottom(data.schema)
            options = recmtl.RunConfig(folder=folder / run, progress=False)
            return recmtl.Trainer(model, recmtl.PCGrad(), epochs=1, run=options)

        trainer("first").fit(data.train, data.valid)
        second = trainer("second")
        found["fit"] = entered(lambda: second.fit(data.train, data.valid))
        third = trainer("third")
        step = Step(third.model, third.balancer, third.setup.optimization, 10)
        batch = next(iter(recmtl.Loader(data.train, 256, seed=0).epoch()))
        step(batch)
        found["step"] = entered(lambda: step(batch))
    return found


def cpu_seconds(command: list[str]) -> float:
    """CPU seconds of a command; its exit status does not matter."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def start_up() -> dict[str, float]:
    """CPU seconds of each command over those of `import torch`: the medians of rounds in which each runs once."""
    seconds = defaultdict(list)
    for command in (TORCH, *START_UP.values()):
        cpu_seconds(command)  # fills the caches
    for _ in range(ROUNDS):
        for name, command in {"torch": TORCH, **START_UP}.items():
            seconds[name].append(cpu_seconds(command))
    torch = statistics.median(seconds.pop("torch"))
    return {name: round(statistics.median(values) / torch, 3) for name, values in seconds.items()}


def size() -> dict[str, Any]:
    """Files and lines of the package, and the folder with the most files."""
    files = sorted(PACKAGE.rglob("*.py"))
    folders = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in {f.parent for f in files}}
    return {
        "files": len(files),
        "lines": sum(len(f.read_text(encoding="utf-8").splitlines()) for f in files),
        "most files in a folder": max(folders.items(), key=lambda item: item[1]),
    }


def definitions() -> Iterator[tuple[Path, str, ast.AST]]:
    """Everything that has a docstring: modules, classes, functions and methods."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        yield path, "", tree
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                yield path, node.name, node
            if isinstance(node, ast.ClassDef):
                for method in node.body:
                    if isinstance(method, ast.FunctionDef):
                        yield path, f"{node.name}.{method.name}", method


def print_docstrings() -> None:
    """Print the first line of each docstring beside the name that it describes."""
    for path, name, node in definitions():
        text = ast.get_docstring(node)  # type: ignore[arg-type]
        if text:
            print(f"{path.relative_to(PACKAGE)}\t{name}\t{text.splitlines()[0]}")


def print_names() -> None:
    """Print each name that two or more files define at their top, but for methods of one seam."""
    places = defaultdict(set)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [node.name] if isinstance(node, ast.ClassDef | ast.FunctionDef) else []
            targets = node.targets if isinstance(node, ast.Assign) else []
            for target in targets:
                parts = target.elts if isinstance(target, ast.Tuple) else [target]
                names += [part.id for part in parts if isinstance(part, ast.Name)]
            for name in names:
                if not name.startswith("__"):
                    places[name].add(str(path.relative_to(PACKAGE)))
    for name, paths in sorted(places.items()):
        if len(paths) > 1:
            print(f"{name}\t{' '.join(sorted(paths))}")


def main(what: str = "") -> None:
    """Print what is asked for."""
    if what == "docstrings":
        print_docstrings()
    elif what == "names":
        print_names()
    else:
        found = files_entered()
        entered_by = {name: len(files) for name, files in found.items()}
        print(json.dumps({"size": size(), "files entered": entered_by, "start-up over import torch": start_up()}))
        if what == "files":
            print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
