"""A balancer in your own training loop, with a plain torch model."""

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from recmtl.balance import Balancer, GradNorm, MetaBalance, NormalizedSplitter, Sum


class TwoHeads(nn.Module):
    """A shared bottom and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.bottom = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.heads = nn.ModuleList([nn.Linear(16, 1), nn.Linear(16, 1)])


def train(balancer: Balancer, inputs: Tensor, targets: Tensor) -> list[float]:
    """Train on two regressions, and return their last losses."""
    torch.manual_seed(0)
    model = TwoHeads()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(200):
        shared = model.bottom(inputs)
        views = balancer.fork([shared, shared])  # the identity, unless the method works on the representation
        outputs = [head(view).squeeze(1) for head, view in zip(model.heads, views, strict=True)]
        losses = [mse_loss(output, target) for output, target in zip(outputs, targets, strict=True)]
        optimizer.zero_grad()
        balancer.backward(losses, shared=list(model.bottom.parameters()))  # instead of sum(losses).backward()
        optimizer.step()
    return [loss.item() for loss in losses]


def main() -> None:
    inputs = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
    # Two tasks; the targets of the second are a thousand times larger.
    targets = torch.stack([inputs[:, :4].sum(1).sin(), 1000 * inputs[:, 4:].sum(1).cos()])
    for balancer in (Sum(), GradNorm(), MetaBalance(), NormalizedSplitter()):
        small, large = train(balancer, inputs, targets)
        print(f"{type(balancer).__name__:20} small task {small:.4f}   large task {large / 1e6:.4f} (in its own unit)")


if __name__ == "__main__":
    main()
