"""Every balancer with tables whose rows are spread over processes, against one process with the whole."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from cases import Case
from together import together
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from twins import BALANCERS

from recmtl import balance
from recmtl.balance import ProcessGroup, SharedTensor, Sizes, gradient_stats, zero_nonfinite_gradients
from recmtl.balance.representation.rotation import RotationBalancer
from recmtl.balance.row_exchange import exchange_rows
from recmtl.train.fp16 import LossScaler

ROWS, HALF, WIDTH, FEATURES, BATCH = 24, 12, 2, 5, 12
NAMES = ["ctr", "cvr", "ctcvr"]
SIZES = Sizes(3, 3, FEATURES, 4, 2 * WIDTH * FEATURES + FEATURES)
BROKEN = 1  # the step with a gradient that is not finite
LIMIT = 1e-12


class Broken(torch.autograd.Function):
    """The identity, with a gradient that is not finite where there is any."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.where(gradient == 0, gradient, torch.nan)


class Setting(NamedTuple):
    case: Case
    scaled: bool = False

    def __str__(self) -> str:
        return f"{self.case}{' scaled' * self.scaled}"


SETTINGS = [Setting(Case(method, {})) for method in BALANCERS]
MORE_SETTINGS = [
    Setting(Case(balance.PCGrad, {"scope": "part"})),
    Setting(Case(balance.DBMTL, {"beta": 0.0})),
    Setting(Case(balance.NormalizedSplitter, {"beta": 0.9, "projection": "before", "seed": 3})),
    *(Setting(Case(m, {"normalize_losses": True}, True)) for m in BALANCERS if issubclass(m, RotationBalancer)),
    *(Setting(Case(m, {}), True) for m in (balance.Sum, balance.GradNorm, balance.MetaBalance, balance.GradDrop)),
]
# The settings and steps of so many processes.
TRAININGS = {2: (SETTINGS, 2), 3: (SETTINGS + MORE_SETTINGS, 3), 4: (SETTINGS, 2)}


class Whole:
    """A table of two features, in one process."""

    def __init__(self, rows: Tensor, processes: ProcessGroup) -> None:
        self.rows, self.processes = rows, processes

    def look_up(self, ids: Tensor) -> Tensor:
        leaf = self.rows.clone().requires_grad_()
        self.places, self.leaf = torch.arange(len(leaf)), SharedTensor(leaf, 2, torch.arange(ROWS) // HALF)
        return leaf[ids]

    def step(self) -> None:
        if self.leaf.tensor.grad is not None:
            self.rows.index_add_(0, self.places, self.leaf.tensor.grad, alpha=-0.1)


class Spread(Whole):
    """The same table, row r in process r mod N."""

    def __init__(self, rows: Tensor, processes: ProcessGroup) -> None:
        super().__init__(rows[processes.rank :: processes.size].clone(), processes)

    def look_up(self, ids: Tensor) -> Tensor:
        processes, size = self.processes, self.processes.size
        wanted, inverse = ids.unique(return_inverse=True)
        order = (wanted % size).argsort(stable=True)
        taken = (wanted % size).bincount(minlength=size)
        given = processes.all_to_all(taken, [1] * size, [1] * size).tolist()
        asked = processes.all_to_all((wanted // size)[order], taken.tolist(), given)
        self.places, slots = asked.unique(return_inverse=True)
        leaf = self.rows[self.places].requires_grad_()
        read = exchange_rows(leaf, slots, given, taken.tolist(), processes)
        part_of_row = (self.places * size + processes.rank) // HALF
        bounds = torch.searchsorted(part_of_row, torch.arange(3))
        self.leaf = SharedTensor(leaf, 2, part_of_row, bounds, exchanged=read)
        return read[order.argsort()[inverse]]


def share(processes: ProcessGroup) -> slice:
    """The rows of a process: of several, the second one has none."""
    if processes.size == 1:
        return slice(0, BATCH)
    bounds = {2: (0, 12, 12), 3: (0, 7, 7, 12), 4: (0, 4, 4, 9, 12)}[processes.size]
    return slice(bounds[processes.rank], bounds[processes.rank + 1])


def ids_of(step: int) -> Tensor:
    """At first all of rows that process 0 owns, of 2, 3 or 4."""
    drawn = torch.randint(HALF, (BATCH, 2), generator=torch.Generator().manual_seed(step))
    return (drawn if step else torch.zeros_like(drawn)) + torch.tensor([0, HALF])


def valid_rows(step: int) -> list[Tensor]:
    """Those of the first task are in one process; the last task has none, or those at the end."""
    row = torch.arange(BATCH)
    return [row < 4, row >= 0, row < 0 if step == 2 else row >= 9]


def trained(
    processes: ProcessGroup, settings: Sequence[Setting], steps: int, table: type[Whole] = Spread
) -> list[dict[str, Any]]:
    return [one_training(processes, setting, steps, table) for setting in settings]


def one_training(processes: ProcessGroup, setting: Setting, steps: int, table: type[Whole]) -> dict[str, Any]:
    torch.manual_seed(0)
    shared, private = (table(torch.randn(ROWS, WIDTH).double(), processes) for _ in range(2))
    bottom, heads = nn.Linear(2 * WIDTH, FEATURES), nn.ModuleList(nn.Linear(FEATURES, 1) for _ in NAMES)
    nets, labels, mine = (
        nn.ModuleList([bottom, heads]).double(),
        torch.rand(BATCH, 3).round().double(),
        share(processes),
    )
    balancer = setting.case.balancer(SIZES, NAMES)
    balancer.processes = processes
    scaler = LossScaler(torch.device("cpu")) if setting.scaled else None
    balancer.scaler = scaler.scaler if scaler else None
    stats: list[Tensor] = []

    def losses_of(step: int) -> tuple[dict[str, Tensor], Tensor]:
        ids = ids_of(step)[mine]
        own, of_first = shared.look_up(ids), private.look_up(ids[:, 0])
        if step == BROKEN and mine.start == 0:
            own = torch.cat([Broken.apply(own[:1]), own[1:]])
        views = balancer.fork([torch.tanh(bottom(own.flatten(1)))] * 3)
        losses = {}
        for name, head, view, label, valid in zip(NAMES, heads, views, labels.T, valid_rows(step), strict=True):
            logits = head(view).squeeze(1) + (of_first.sum(1) if name == "ctr" else 0.0)
            found = binary_cross_entropy_with_logits(logits[valid[mine]], label[mine][valid[mine]], reduction="sum")
            losses[name] = found / valid.sum().clamp(min=1) if valid[mine].any() else torch.zeros(()).double()
        return losses, 0.01 * own.square().sum() if len(own) else torch.zeros(()).double()

    for step in range(steps):
        losses, penalty = losses_of(step)
        if scaler:
            losses, penalty = scaler.scaled(losses, penalty)
        leaves, parameters = (
            [shared.leaf, SharedTensor(bottom.weight), SharedTensor(bottom.bias)],
            list(nets.parameters()),
        )
        if step == 0:
            stats = list(gradient_stats(losses, leaves, processes))
        others, last = [private.leaf, *map(SharedTensor, heads.parameters())], [shared.leaf.tensor, bottom.weight]
        balancer.backward(losses, leaves, last, others, penalty if step == 0 else None)
        moved = [*parameters, *balancer.parameters(), shared.leaf.tensor, private.leaf.tensor]

        def take(moved: Sequence[Tensor] = moved) -> None:
            zero_nonfinite_gradients(moved)
            shared.step()
            private.step()
            with torch.no_grad():
                for parameter in moved[:-2]:
                    parameter -= 0.1 * (0.0 if parameter.grad is None else parameter.grad)

        taken = scaler.update(moved, take) if scaler else take() is None
        assert taken == (not scaler or step != BROKEN)
        if balancer.needs_losses_after_step:
            with torch.no_grad():
                balancer.after_step(losses_of(step)[0])
        nets.zero_grad()
        balancer.zero_grad()
    kept = {name: state for name, state in balancer.state_dict().items() if not name.endswith("_extra_state")}
    nets_state = {f"net {name}": value for name, value in nets.state_dict().items()}
    same = nets_state | kept | {"losses": balancer.losses, "norms": stats[0], "cosines": stats[1]}
    return {"same": same, "shared": shared.rows, "private": private.rows}


def gathered(several: Sequence[dict[str, Any]], name: str) -> Tensor:
    """The whole table of its parts in the processes."""
    whole = torch.empty(ROWS, WIDTH, dtype=torch.float64)
    for rank, one in enumerate(several):
        whole[rank :: len(several)] = one[name]
    return whole


def error(found: Tensor, expected: Tensor) -> float:
    """Relative to the expected, or to 1."""
    assert found.shape == expected.shape
    assert expected.isfinite().all()
    found, expected = found.double(), expected.double()
    return (found - expected).norm().item() / max(expected.norm().item(), 1.0)


def in_groups(processes: ProcessGroup) -> list[list[dict[str, Any]]]:
    """What this process sees in groups of 2, 3 and 4 processes, as far as it is in them."""
    groups = [dist.new_group(list(range(number))) for number in TRAININGS]
    members = [ProcessGroup(group) for number, group in zip(TRAININGS, groups, strict=True) if processes.rank < number]
    return [trained(group, *TRAININGS[group.size]) for group in members]


@pytest.mark.slow
def test_equals_one_process(tmp_path: Path) -> None:
    of_ranks = together(4, tmp_path / "several", in_groups)
    for number, (settings, steps) in TRAININGS.items():
        expected = trained(ProcessGroup(), settings, steps, Whole)
        by_setting = zip(*(of_ranks[rank][number - 5] for rank in range(number)), strict=True)
        for setting, one, several in zip(settings, expected, by_setting, strict=True):
            tables = {name: gathered(several, name) for name in ("shared", "private")}
            found, wanted = several[0]["same"] | tables, one["same"] | {name: one[name] for name in tables}
            errors = {name: error(found[name], value) for name, value in wanted.items()}
            assert max(errors.values()) <= LIMIT, (number, str(setting), errors)
            for other in several[1:]:
                assert all(other["same"][name].equal(found[name]) for name in other["same"]), (number, str(setting))


def test_rows_may_be_exchanged_by_one_process() -> None:
    settings = [s for s in SETTINGS + MORE_SETTINGS if s.case.method in (balance.Sum, balance.GradNorm, balance.PCGrad)]
    trainings = (trained(ProcessGroup(), settings, 2, table) for table in (Whole, Spread))
    for expected, found in zip(*trainings, strict=True):
        assert all(error(found["same"][name], value) <= LIMIT for name, value in expected["same"].items())
        assert error(found["shared"], expected["shared"]) <= LIMIT
