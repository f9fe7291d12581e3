"""How large the benchmark is: in full on a GPU, small in a rehearsal on a CPU."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import recmtl
from benchmarks.generated import ALL_LARGE, SMALL, TWO_LARGE, generated


@dataclass(frozen=True)
class Form:
    """Sizes of models, batches and repetitions.

    Args:
        experts: The experts of the model.
        layers: The widths of their layers.
        width: Of the embeddings.
        small: A batch of the usual size.
        large: A batch that fills a large device.
        rows: Of an epoch.
        generated: Rows that are generated, of which an epoch repeats some.
        rounds: Repetitions of a step.
        replays: Steps that are held to launched ones.
        matrix: Rows of the square matrices whose product gives the device's rate.
        rotation: Rows of rotations.
        balancers: Those of which more is asked, the plain one first.
        others: Whether all other balancers are measured, too.
        vocabularies: Categories of each column, by the name of the table in results.
    """

    experts: int
    layers: tuple[int, ...]
    width: int
    small: int
    large: int
    rows: int
    generated: int
    rounds: int
    replays: int
    matrix: int
    rotation: tuple[int, ...]
    balancers: tuple[str, ...]
    others: bool
    vocabularies: dict[str, list[int]]


FULL = Form(
    experts=8,
    layers=(512, 256),
    width=128,
    small=2048,
    large=65_536,
    rows=12_100_000,
    generated=65_536,
    rounds=30,
    replays=200,
    matrix=8192,
    rotation=(128, 256, 512),
    balancers=("Sum", "PCGrad", "RotoGrad"),
    others=True,
    vocabularies={"200 rows": SMALL, "4 M in two columns": TWO_LARGE, "4 M in all columns": ALL_LARGE},
)
REHEARSAL = Form(
    experts=2,
    layers=(8, 4),
    width=2,
    small=32,
    large=64,
    rows=300,
    generated=256,
    rounds=1,
    replays=4,
    matrix=64,
    rotation=(4,),
    balancers=("Sum", "RotoGrad"),
    others=False,
    vocabularies={"200 rows": SMALL, "400 rows": [25] * len(SMALL)},
)


def form_for(device: str) -> Form:
    """Return the sizes for a device."""
    return REHEARSAL if device == "cpu" else FULL


def write_data(form: Form, path: Path) -> None:
    """Generate rows into a file, for the processes of all sections."""
    path.write_bytes(pickle.dumps(generated(form.generated)))


def read_data(path: Path) -> recmtl.PreparedData:
    """Read what `write_data` wrote."""
    data: recmtl.PreparedData = pickle.loads(path.read_bytes())
    return data
