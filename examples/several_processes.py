"""Your own loop in several processes: torchrun --nproc-per-node 2 examples/several_processes.py

Each process computes on its own rows. A single process computes on all rows and prints the same.
"""

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from recmtl.balance import MetaBalance, ProcessGroup


def main() -> None:
    if "RANK" in os.environ:  # set by torchrun
        dist.init_process_group("gloo")
    processes = ProcessGroup(dist.group.WORLD if dist.is_initialized() else None)

    torch.manual_seed(0)  # the same first weights and the same rows everywhere
    bottom = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
    heads = nn.ModuleList([nn.Linear(16, 1), nn.Linear(16, 1)])
    optimizer = torch.optim.SGD([*bottom.parameters(), *heads.parameters()], lr=0.5)
    inputs = torch.randn(600, 8)
    clicks = (inputs[:, 0] > 0).float()
    labels = torch.stack([clicks, ((inputs[:, 1] > 0.5) & (clicks == 1)).float()])
    counts = torch.stack([torch.ones(600), clicks])  # the second task has clicked rows only

    balancer = MetaBalance()
    balancer.processes = processes
    mine = slice(600 * processes.rank // processes.size, 600 * (processes.rank + 1) // processes.size)
    for _ in range(100):
        shared = bottom(inputs[mine])
        views = balancer.fork([shared, shared])
        losses = []
        for head, view, label, count in zip(heads, views, labels, counts, strict=True):
            each = binary_cross_entropy_with_logits(head(view).squeeze(1), label[mine], reduction="none")
            losses.append((count[mine] * each).sum() / count.sum())  # over the valid rows of the whole batch
        optimizer.zero_grad()
        balancer.backward(losses, shared=list(bottom.parameters()), private=heads.parameters())
        optimizer.step()

    if processes.first:
        assert balancer.losses is not None
        print("losses over all rows:", [round(loss, 4) for loss in balancer.losses.tolist()])
    if dist.is_initialized():
        dist.barrier()  # gloo may abort if one process ends while another still works
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
