"""The problems and methods of `benchmarks.claims`: what each method is for, and the rows that are planted for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from recmtl import balance
from recmtl.balance import Balancer
from recmtl.recipe.classes import known_names

PLAIN = "Sum"
INPUTS, NOISE = 16, 0.3


@dataclass(frozen=True)
class Method:
    """A balancer, and the rate of its own parameters where it is not that of the problem."""

    make: Callable[[], Balancer]
    own_rate: float | None = None


@dataclass(frozen=True)
class Problem:
    """Tasks on one bottom: what they want, how they are trained, and which methods are measured.

    The first task stands by itself in the results; the others by their mean.
    """

    title: str
    labels: Callable[[Tensor], Tensor]  # [B, INPUTS] -> [B, K, outputs], before the noise
    net: Callable[[], Net]
    methods: Sequence[str]
    scales: tuple[float, ...] = (1.0, 1.0)  # of the K losses
    noise: tuple[float, ...] = (NOISE,)  # of the labels' noise, of all tasks or of each
    steps: int = 400
    rate: float = 0.01
    own_rate: float = 0.01
    variants: Mapping[str, Method] = field(default_factory=dict)


class Net(nn.Module):
    """A bottom and a head per task."""

    def __init__(
        self, bottom: Sequence[nn.Module], features: int, head: Callable[[], nn.Module], tasks: int = 2
    ) -> None:
        super().__init__()
        self.bottom = nn.Sequential(*bottom)
        self.heads = nn.ModuleList(head() for _ in range(tasks))
        self.features = features


def directions(count: int) -> Tensor:
    """Orthonormal columns, `[INPUTS, count]`."""
    basis: Tensor = torch.linalg.qr(torch.randn(INPUTS, INPUTS, dtype=torch.float64))[0]
    return basis[:, :count]


def separate(x: Tensor) -> Tensor:
    """Each task is a function of three directions of its own."""
    features = torch.tanh(1.5 * x @ directions(6))  # [B, 6]
    return features.view(-1, 2, 3).sum(2, keepdim=True)  # [B, 2, 1]


def opposed(x: Tensor, others: int = 1) -> Tensor:
    """All tasks agree on one function; of another, as large, the first wants the opposite of what all others want."""
    agreed, disputed = separate(x).unbind(1)
    return torch.stack([agreed + disputed, *[agreed - disputed] * others], 1)  # [B, 1 + others, 1]


def with_a_quarter_turn(features: Tensor) -> Tensor:
    """The features and the same turned by 90° in random planes: `[B, D]` -> `[B, 2, D]`."""
    size = features.shape[1]
    basis = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0]
    turn = torch.kron(torch.eye(size // 2), torch.tensor([[0.0, -1.0], [1.0, 0.0]])).to(basis)
    return torch.stack([features, features @ (basis @ turn @ basis.T)], 1)


def rotated(x: Tensor) -> Tensor:
    """The tasks want the same four features, the second in a turned basis."""
    return with_a_quarter_turn(torch.tanh(1.5 * x @ directions(4)))  # [B, 2, 4]


def rotated_units(x: Tensor) -> Tensor:
    """The tasks are the same function of four features, the second of the turned ones."""
    signs = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=torch.float64)
    return torch.tanh(3 * with_a_quarter_turn(x @ directions(4))) @ signs  # [B, 2, 1]


def two_layers(features: int) -> list[nn.Module]:
    return [nn.Linear(INPUTS, 32), nn.ReLU(), nn.Linear(32, features)]


def tanh_units() -> nn.Module:
    return nn.Sequential(nn.Tanh(), nn.Linear(4, 1))


METHODS = {
    name: Method(getattr(balance, name)) for name in (PLAIN, *(n for n in known_names("balancer") if n != PLAIN))
} | {
    "PCGrad": Method(lambda: balance.PCGrad(reduction="sum")),
    "PPCGrad": Method(lambda: balance.PPCGrad(reduction="sum")),
    "GradVac": Method(lambda: balance.GradVac(reduction="sum")),
    "GradCraft": Method(lambda: balance.GradCraft(reduction="sum")),
}
# Which problems show what a method is for. `Sum`, `FixedWeights` and `RLW` are for comparison.
CLAIMS: dict[str, tuple[str, ...]] = {
    "AlignedMTL": ("scale", "minority", "pareto"),
    "CAGrad": ("minority", "pareto"),
    "DBMTL": ("scale",),
    "DWA": ("scale",),
    "DualProj": ("minority", "pareto"),
    "ExcessMTL": ("noise",),
    "FAMO": ("scale", "pareto"),
    "FairGrad": ("minority", "pareto"),
    "FixedWeights": (),
    "GLS": ("scale",),
    "GradCraft": ("minority",),
    "GradDrop": ("minority",),
    "GradNorm": ("scale",),
    "GradVac": ("minority",),
    "IMTLG": ("scale",),
    "IMTLL": ("scale",),
    "MGDA": ("minority", "pareto"),
    "MetaBalance": ("scale", "opposed"),
    "NashMTL": ("scale", "pareto"),
    "NormalizedSplitter": ("scale",),
    "PCGrad": ("opposed", "minority"),
    "PPCGrad": ("opposed", "minority"),
    "RLW": (),
    "RotateOnly": ("rotated",),
    "RotoGrad": ("scale", "rotated"),
    "RotoGradNorm": ("scale", "rotated"),
    "STCH": ("scale", "pareto"),
    "Sum": (),
    "UPGrad": ("minority", "pareto"),
    "UncertaintyWeighting": ("scale",),
}


def claiming(problem: str, *others: str) -> tuple[str, ...]:
    """The methods that a problem is for, and others beside them."""
    return tuple(dict.fromkeys([*(name for name, problems in CLAIMS.items() if problem in problems), *others]))


CORE = (
    "GradNorm",
    "MetaBalance",
    "NormalizedSplitter",
    "PCGrad",
    "PPCGrad",
    "RotateOnly",
    "RotoGrad",
    "RotoGradNorm",
)
TARGETS = {"MetaBalance(target=1)": Method(lambda: balance.MetaBalance(target=1))}
ROTATIONS = {
    "RotateOnly, its rate 0.001": Method(balance.RotateOnly, own_rate=0.001),
    "RotateOnly().coop()": Method(lambda: balance.RotateOnly().coop()),
}
PROBLEMS = {
    "scale": Problem(
        "losses 1 : 1000",
        separate,
        lambda: Net(two_layers(4), 4, tanh_units),
        claiming("scale", *CORE, "RLW"),
        scales=(1.0, 1000.0),
        steps=500,
        rate=0.02,
        variants=TARGETS
        | {
            "MetaBalance(relax_factor=1)": Method(lambda: balance.MetaBalance(relax_factor=1.0)),
            "GradNorm(lr=0.1)": Method(lambda: balance.GradNorm(lr=0.1)),
            "IMTLL(lr=0.1)": Method(lambda: balance.IMTLL(lr=0.1)),
            "STCH(preference=[1, 0.001])": Method(lambda: balance.STCH(preference=[1.0, 0.001])),
            "UncertaintyWeighting(lr=0.1)": Method(lambda: balance.UncertaintyWeighting(lr=0.1)),
        },
    ),
    "opposed": Problem(
        "one score, opposed tasks, losses 1 : 10",
        opposed,
        lambda: Net(two_layers(1), 1, nn.Identity),
        CORE,
        scales=(1.0, 10.0),
        variants=TARGETS,
    ),
    "opposed_equal": Problem(
        "one score, opposed tasks, losses 1 : 1", opposed, lambda: Net(two_layers(1), 1, nn.Identity), CORE
    ),
    "minority": Problem(
        "one score, one task opposed to four",
        lambda x: opposed(x, others=4),
        lambda: Net(two_layers(1), 1, nn.Identity, tasks=5),
        claiming("minority", "RLW"),
        scales=(1.0,) * 5,
        steps=200,
    ),
    "noise": Problem(
        "noise in the labels of the first task",
        separate,
        lambda: Net(two_layers(4), 4, tanh_units),
        claiming("noise", "DWA", "FAMO", "GradNorm", "IMTLG", "MGDA", "RLW", "STCH", "UncertaintyWeighting"),
        noise=(3.0, NOISE),
        rate=0.02,
    ),
    "rotated": Problem(
        "rotated copies, the view is the output",
        rotated,
        lambda: Net(two_layers(4), 4, nn.Identity),
        CORE,
        variants=ROTATIONS,
    ),
    "rotated_linear": Problem(
        "rotated copies, linear heads",
        rotated,
        lambda: Net(two_layers(4), 4, lambda: nn.Linear(4, 4)),
        CORE,
        variants=ROTATIONS,
    ),
    "rotated_units": Problem(
        "rotated copies, heads of tanh units",
        rotated_units,
        lambda: Net([nn.Linear(INPUTS, 4)], 4, tanh_units),
        CORE,
        rate=0.02,
        variants=ROTATIONS,
    ),
}
