"""Rows that are spread over processes, against one process with all of them."""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from together import check_launches, together
from torch import Tensor

from recmtl import balance
from recmtl.balance import LostRankError, ProcessGroup, SharedTensor, exchange_rows
from recmtl.balance.row_exchange import check_leaves

WIDTH, ROWS = 3, 8


def exchanged(processes: ProcessGroup, rows: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The wanted rows of a table whose row r lies in process r mod N, in the order of their owners and as wanted."""
    owner, place = wanted % processes.size, wanted // processes.size
    order = owner.argsort(stable=True)
    taken = owner.bincount(minlength=processes.size)
    given = processes.all_to_all(taken, [1] * processes.size, [1] * processes.size).tolist()
    places = processes.all_to_all(place[order], taken.tolist(), given)
    found = exchange_rows(rows, places, given, taken.tolist(), processes)
    return found, found.index_select(0, order.argsort())


def exchanges(processes: ProcessGroup) -> dict[str, Any]:
    """What one process sees; process 1 reads no row, and row 0 of process 0 is read most."""
    table = torch.arange(float(ROWS * WIDTH), dtype=torch.float64).view(ROWS, WIDTH)
    own = table[processes.rank :: processes.size].clone().requires_grad_()
    wanted = torch.tensor([5, 0, 7, 0][: 2 + processes.rank] if processes.rank != 1 else [], dtype=torch.int64)
    _, found = exchanged(processes, own, wanted)
    weights = torch.arange(1.0, 1 + found.numel(), dtype=torch.float64).view(found.shape) * (1 + processes.rank)
    (found * weights).sum().backward()
    before = processes.sent
    lengths = [len(t) for t in processes.all_gather(wanted)]
    return {
        "found": torch.equal(found, table[wanted]),
        "gradient": own.grad,
        "expected": torch.zeros_like(table).index_add_(0, wanted, weights),  # this process's part
        "lengths": lengths,
        "sent": processes.sent - before,
    }


def counted(processes: ProcessGroup) -> dict[str, tuple[int, int]]:
    """The bytes that this process sends in a step of some methods, and those by the formulas of the documentation."""
    sent, wanted = {}, torch.arange(3 + processes.rank)
    table = torch.randn(ROWS, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    owned = len(range(processes.rank, 3, processes.size))  # of the first three rows, which all processes read
    others = [row for row in (3, 4) if row % processes.size == processes.rank]
    asked = 3 * owned + sum(processes.size - (row - 2) for row in others)  # G
    for method in (balance.Sum, balance.GradNorm, balance.MetaBalance, balance.PCGrad, balance.GradDrop):
        balancer = method()
        balancer.processes, balancer.names, balancer.head_names = processes, ("a", "b"), ("a", "b")
        before = processes.sent
        rows = table[processes.rank :: processes.size].clone().requires_grad_()
        read, found = exchanged(processes, rows, wanted)
        a, b = balancer.fork([found, found])
        balancer.backward([a.square().sum(), b.exp().sum()], [SharedTensor(rows, exchanged=read)])
        task_gradients = isinstance(balancer, balance.TaskGradientBalancer)
        passes = 2 if task_gradients or method is balance.GradNorm else 1
        numbers = 2 + 3 + len(wanted) + asked * WIDTH + passes * len(wanted) * WIDTH  # with the losses
        numbers += 2 * (task_gradients or method is balance.GradNorm) + 4 * (method is balance.PCGrad)
        numbers += 2 * (WIDTH + 2) * (method is balance.GradDrop)
        sent[method.__name__] = processes.sent - before, 8 * numbers
    return sent


def lost(processes: ProcessGroup, group: dist.ProcessGroup, end: Callable[[], None]) -> tuple[str, float]:
    """What a backward pass says, and after how many seconds, if the last process does something else."""
    rows = torch.ones(ROWS, WIDTH, requires_grad=True)
    found, _ = exchanged(ProcessGroup(group), rows, torch.arange(ROWS))
    start = time.monotonic()
    try:
        end() if processes.rank == processes.size - 1 else found.sum().backward()
    except LostRankError as error:
        return str(error), time.monotonic() - start
    return "nothing", 0.0


def work(processes: ProcessGroup, folder: Path) -> dict[str, Any]:
    """At last the last process hangs, and then dies."""
    seen = exchanges(processes)
    patient, impatient = (dist.new_group(timeout=timedelta(seconds=seconds)) for seconds in (60, 4))

    def die() -> None:
        torch.save(seen, folder / f"{processes.rank}.pt")
        os._exit(0)

    hung = lost(processes, impatient, partial(time.sleep, 6))
    return seen | {"counted": counted(processes), "hung": hung, "died": lost(processes, patient, die)}


@pytest.mark.slow
def test_rows_and_their_gradients_travel(tmp_path: Path) -> None:
    several = together(3, tmp_path / "3", work, tmp_path / "3")
    expected = sum(each["expected"] for each in several)
    for each in several[:2]:
        assert all(sent == expected for sent, expected in each["counted"].values()), each["counted"]
    for rank, each in enumerate(several):
        for message, seconds in (each["hung"], each["died"]) if rank < 2 else ():
            assert message.startswith("another process has ended, or did not answer in time: ")
            assert "\n" not in message
            assert seconds < 30
        assert each["found"]
        assert torch.equal(each["gradient"], expected[rank::3])
        assert each["lengths"] == [2, 0, 4]
        assert each["sent"] == 8 + 4 * 8  # its length, and as many numbers as the longest one has


LAUNCH = """
import torch.fx.experimental.symbolic_shapes
from recmtl.balance import PCGrad, SharedTensor, exchange_rows

def work(processes):
    balancer = PCGrad()
    balancer.processes = processes
    for _ in range(3):
        rows = torch.ones(4, 2, dtype=torch.float64, requires_grad=True)
        read = exchange_rows(rows, torch.arange(4), [2, 2], [2, 2], processes)
        balancer.backward([read.sum(), (read[:, 0] - read[:, 1]).sum()], [SharedTensor(rows, exchanged=read)])
"""


@pytest.mark.slow
def test_twenty_launches_end_cleanly(tmp_path: Path) -> None:
    """A collective of torch's functional ones ended 3 of 20 with an abort, after their work was done."""
    check_launches(LAUNCH, tmp_path)


def test_counts_that_do_not_fit_are_refused() -> None:
    rows = torch.zeros(2, WIDTH, requires_grad=True)
    with pytest.raises(ValueError, match=r"must count 3 rows for 1 processes, got \[2\] and \[3\]"):
        exchange_rows(rows, torch.tensor([0, 1, 1]), [2], [3], ProcessGroup())


def read_all(rows: Tensor) -> Tensor:
    return exchange_rows(rows, torch.arange(len(rows)), [len(rows)], [len(rows)], ProcessGroup())


def test_what_is_no_exchange_of_the_rows_is_refused() -> None:
    rows, others = (torch.ones(2, WIDTH, requires_grad=True) for _ in range(2))
    wrong = {
        "the output of MulBackward0": 2 * read_all(rows),
        "the output of _ExchangeBackward": read_all(others),
        "a tensor without a graph": read_all(rows).detach(),
    }
    for found, read in wrong.items():
        with pytest.raises(ValueError, match=rf"`exchanged` of rows of shape \(2, 3\) must be .*, got {found}$"):
            balance.Sum().backward([rows.sum()], [SharedTensor(rows, exchanged=read)])
    with pytest.raises(ValueError, match="has exchanged rows and 2 parts, expected `part_of_row`"):
        balance.PCGrad().backward([rows.sum()], [SharedTensor(rows, 2, exchanged=read_all(rows))])
    assert rows.grad is None


def test_rows_are_exchanged_for_each_step() -> None:
    rows = torch.ones(2, WIDTH, requires_grad=True)
    shared = SharedTensor(rows, exchanged=read_all(rows))
    balance.Sum().backward([shared.exchanged.sum()], [shared])
    with pytest.raises(ValueError, match="were exchanged for an earlier `backward`: exchange them anew in each step"):
        balance.Sum().backward([read_all(rows).sum()], [shared])


def test_rows_and_balancer_have_the_same_processes(tmp_path: Path) -> None:
    rows = torch.ones(2, WIDTH, requires_grad=True)
    dist.init_process_group("gloo", f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        read = exchange_rows(rows, torch.arange(2), [2], [2], ProcessGroup(dist.group.WORLD))
        for measure in (balance.Sum().backward, balance.gradient_stats):
            with pytest.raises(ValueError, match="set `processes` of the balancer to those of the exchange"):
                measure([read.sum()], [SharedTensor(rows, exchanged=read)])
    finally:
        dist.destroy_process_group()


def test_exchanged_rows_are_no_plain_tensor() -> None:
    """Their gradients would be summed with those of other rows."""
    rows = torch.ones(2, WIDTH, requires_grad=True)
    with pytest.raises(
        ValueError, match=r"pass them once, in `shared` or `private`, as `SharedTensor\(rows, exchanged"
    ):
        check_leaves([read_all(rows).sum()], [SharedTensor(rows)])


def test_gradients_are_summed_in_one_order_on_every_device() -> None:
    """As a GPU does it, without atomic additions."""
    from recmtl.balance import shared

    values, places = torch.randn(50, WIDTH, dtype=torch.float64), torch.randint(7, (50,))
    rows = torch.zeros(9, WIDTH, dtype=torch.float64, requires_grad=True)
    found = exchange_rows(rows, places, [50], [50], ProcessGroup())
    expected = torch.zeros(9, WIDTH, dtype=torch.float64).index_add_(0, places, values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "on_host", lambda tensor: False)
        found.backward(values)
    torch.testing.assert_close(rows.grad, expected, rtol=0, atol=1e-14)
