"""The wheel holds all that a user needs: the command runs from it in any folder and finds cards and recipes."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, unpacked as an installer would."""
    folder = tmp_path_factory.mktemp("wheel")
    run("-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--quiet", "-w", str(folder))
    (wheel,) = folder.glob("recmtl-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_holds_cards_recipes_licence_and_types(installed: Path) -> None:
    files = {str(p.relative_to(installed)) for p in installed.rglob("*") if p.is_file()}
    assert {"recmtl/report/page.html", "recmtl/report/page.css", "recmtl/report/page.js"} <= files
    assert {"recmtl/py.typed", "recmtl/_shipped/data/aliexpress.yaml", "recmtl/_shipped/models/demo.yaml"} <= files
    assert {"recmtl/reproduction/published.yaml", "recmtl/_shipped/data/kuairand.yaml"} <= files
    assert any(f.endswith("LICENSE") for f in files)
    assert not any(f.startswith(("tests", "benchmarks", "examples")) for f in files)


@pytest.mark.slow
def test_demo_runs_from_any_folder(installed: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    where = run("-P", "-c", "import recmtl; print(recmtl.__file__)", cwd=tmp_path, env=environment)
    assert where.stdout.startswith(str(installed))
    done = run("-P", "-m", "recmtl", "demo", "--rows", "2000", cwd=tmp_path, env=environment)
    assert "Bayes" in done.stdout
    assert (tmp_path / "demo" / "run" / "metrics.json").is_file()
