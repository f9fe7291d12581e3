"""A naive float64 twin of every balancer: the formulas of the papers, task by task and tensor by tensor.

A twin reads its balancer's options, and the orders that it will draw, but none of its state: let the twin take a step
before the balancer takes the same one.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import brentq, minimize, nnls
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from recmtl import balance
from recmtl.balance import Balancer, Sizes

EXPORTS = [getattr(balance, name) for name in balance.__all__]
BALANCERS = [c for c in EXPORTS if inspect.isclass(c) and issubclass(c, Balancer) and not inspect.isabstract(c)]


class Pass(NamedTuple):
    """One batch's way through a net of separate tensors, every part a tensor of its own.

    `views` holds one view per head, and `losses` goes from what the heads read to one loss per objective. `private`
    holds all parameters that are not shared, whether they lie before the views (gates) or after (towers).
    """

    views: Sequence[Tensor]
    losses: Callable[[Sequence[Tensor]], Sequence[Tensor]]
    shared: Sequence[Tensor]
    private: Sequence[Tensor]
    last: Sequence[Tensor] = ()
    tables: Sequence[Tensor] = ()  # of which a step may see other rows: they keep no state


class Twin:
    """Called with a `Pass`, it adds one balanced gradient to `.grad`, zeros where nothing is reached."""

    def __init__(self, balancer: Balancer, sizes: Sizes) -> None:
        self.balancer, self.K, self.H = balancer, sizes.objectives, sizes.heads
        self.rotations: list[nn.Parameter] = []

    @property
    def weights(self) -> Tensor | None:
        return None

    def turned(self, views: Sequence[Tensor]) -> list[Tensor]:
        """What the heads read."""
        return list(views)

    def after_step(self, losses: Sequence[float]) -> None:
        """The losses of the same batch after the weights have moved."""

    def end_epoch(self) -> None:
        pass


def gradients(loss: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """One backward pass; zeros for what the loss does not reach."""
    if not loss.requires_grad or not tensors:
        return [torch.zeros_like(t) for t in tensors]
    return list(torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True, materialize_grads=True))


def add(tensors: Sequence[Tensor], terms: Sequence[Tensor], weight: float = 1.0) -> None:
    for tensor, term in zip(tensors, terms, strict=True):
        tensor.grad = (torch.zeros_like(tensor) if tensor.grad is None else tensor.grad) + weight * term


# loss weights


class NaiveSum(Twin):
    def weigh(self, losses: Sequence[Tensor], at: Pass) -> list[float]:
        return [1.0] * len(losses)

    def __call__(self, at: Pass) -> None:
        losses = at.losses(at.views)
        for loss, weight in zip(losses, self.weigh(losses, at), strict=True):
            tensors = [*at.shared, *at.private]
            add(tensors, gradients(loss, tensors), weight)


class NaiveWeights:
    """The w of GradNorm: an Adam that descends the paper's loss, one parameter per task."""

    def __init__(self, tasks: int, alpha: float, lr: float, burn_in: int | None = None) -> None:
        self.alpha, self.burn_in = alpha, burn_in
        self.omega = [torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(tasks)]
        self.adam = torch.optim.Adam(self.omega, lr=lr)
        self.first: dict[int, float] = {}
        self.steps = [0] * tasks

    def w(self) -> Tensor:
        return len(self.omega) * torch.stack(self.omega).softmax(0)

    def step(self, losses: Sequence[float], norms: Sequence[float]) -> list[float]:
        """The weights before they move."""
        w = self.w()
        for k, loss in enumerate(losses):
            if loss > 0:
                self.first.setdefault(k, loss)
        present = [k for k in range(len(losses)) if losses[k] > 0 and norms[k] > 0]
        for k in present:
            if self.steps[k] == self.burn_in:
                self.first[k] = losses[k]
            self.steps[k] += 1
        if present:
            self.descend(w, {k: losses[k] / self.first[k] for k in present}, norms)
        return w.tolist()

    def descend(self, w: Tensor, learned: dict[int, float], norms: Sequence[float]) -> None:
        G = {k: w[k] * norms[k] for k in learned}
        mean = sum(G.values()).item() / len(G)
        mean_learned = sum(learned.values()) / len(learned)
        T = {k: mean * (learned[k] / mean_learned) ** self.alpha for k in learned}
        self.adam.zero_grad()
        sum((G[k] - T[k]).abs() for k in learned).backward()
        for k, omega in enumerate(self.omega):
            if k not in learned:
                omega.grad = None  # Adam passes it over
        self.adam.step()


class NaiveGradNorm(NaiveSum):
    def __init__(self, balancer: Balancer, sizes: Sizes) -> None:
        super().__init__(balancer, sizes)
        self.rule = NaiveWeights(self.K, balancer.alpha, balancer.lr)

    @property
    def weights(self) -> Tensor:
        return self.rule.w().detach()

    def weigh(self, losses: Sequence[Tensor], at: Pass) -> list[float]:
        W = at.last or [t for t in at.shared if t.dim() == 2][-1:]
        norms = [math.sqrt(sum(g.square().sum().item() for g in gradients(loss, W))) for loss in losses]
        return self.rule.step([loss.item() for loss in losses], norms)


class NaiveOfLosses(NaiveSum):
    """Weights from this step's losses; what a task had last is remembered."""

    def __init__(self, balancer: Balancer, sizes: Sizes) -> None:
        super().__init__(balancer, sizes)
        self.last = [1.0] * self.K

    @property
    def weights(self) -> Tensor:
        return torch.tensor(self.last, dtype=torch.float64)

    def weigh(self, losses: Sequence[Tensor], at: Pass) -> list[float]:
        present = [k for k, loss in enumerate(losses) if loss.item() != 0]
        x = torch.tensor([losses[k].item() for k in present], dtype=torch.float64, requires_grad=True)
        if present:
            (w,) = torch.autograd.grad(self.combined(x, present), x)
            for k, weight in zip(present, w.tolist(), strict=True):
                self.last[k] = weight
        return [self.last[k] if k in present else 0.0 for k in range(self.K)]


class NaiveRLW(NaiveOfLosses):
    def combined(self, losses: Tensor, present: Sequence[int]) -> Tensor:
        xi = self.balancer.random.normal(self.K)[present]
        return len(present) * (xi.softmax(0) * losses).sum()


class NaiveGLS(NaiveOfLosses):
    def combined(self, losses: Tensor, present: Sequence[int]) -> Tensor:
        return losses.prod() ** (1 / len(present))


class NaiveSTCH(NaiveOfLosses):
    def combined(self, losses: Tensor, present: Sequence[int]) -> Tensor:
        mu, count = self.balancer.mu, self.K
        z = torch.tensor(self.balancer.reference or [0.0] * count, dtype=torch.float64)[present]
        p = torch.tensor(self.balancer.preference or [1 / len(present)] * count, dtype=torch.float64)[present]
        return mu * (p * (losses - z) / mu).exp().sum().log()


class NaiveFixedWeights(NaiveSum):
    @property
    def weights(self) -> Tensor:
        given = self.balancer.task_weights or [1.0] * self.K
        named = isinstance(given, dict)
        found = [given.get(name, 1.0) for name in self.balancer.names] if named else given
        return torch.tensor(found, dtype=torch.float64)

    def weigh(self, losses: Sequence[Tensor], at: Pass) -> list[float]:
        return self.weights.tolist()


class NaiveDWA(NaiveSum):
    """All losses of every epoch, averaged when the weights are wanted."""

    def __init__(self, balancer: Balancer, sizes: Sizes) -> None:
        super().__init__(balancer, sizes)
        self.seen: list[list[list[float]]] = [[[]] for _ in range(self.K)]  # by task and epoch

    @property
    def weights(self) -> Tensor:
        means = [[sum(e) / len(e) for e in task[:-1] if e] for task in self.seen]
        r = {k: found[-1] / found[-2] for k, found in enumerate(means) if len(found) > 1}
        total = sum(math.exp(x / self.balancer.temperature) for x in r.values())
        found = [math.exp(r[k] / self.balancer.temperature) * len(r) / total if k in r else 1.0 for k in range(self.K)]
        return torch.tensor(found, dtype=torch.float64)

    def weigh(self, losses: Sequence[Tensor], at: Pass) -> list[float]:
        for k, loss in enumerate(losses):
            if loss.item():
                self.seen[k][-1].append(loss.item())
        return self.weights.tolist()

    def end_epoch(self) -> None:
        for task in self.seen:
            task.append([])


class NaiveFAMO(NaiveOfLosses):
    """The logarithms' weighted sum by autograd, and torch's Adam on the gradient of the softmax."""

    def __init__(self, balancer: Balancer, sizes: Sizes) -> None:
        super().__init__(balancer, sizes)
        self.xi = [torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(self.K)]
        self.adam = torch.optim.Adam(self.xi, lr=balancer.lr, weight_decay=balancer.decay)
        self.before: dict[int, float] = {}

    def combined(self, losses: Tensor, present: Sequence[int]) -> Tensor:
        z = torch.stack([self.xi[k] for k in present]).softmax(0).detach()
        self.before = dict(zip(present, losses.tolist(), strict=True))
        return (z * losses.log()).sum() / (z / losses.detach()).sum()

    def after_step(self, losses: Sequence[float]) -> None:
        self.adam.zero_grad()
        present = list(self.before)
        if present:
            fell = torch.tensor([math.log(self.before[k]) - math.log(losses[k]) for k in present], dtype=torch.float64)
            (torch.stack([self.xi[k] for k in present]).softmax(0) * fell).sum().backward()
            self.adam.step()
        self.before = {}


class NaiveLearned(NaiveSum):
    """One parameter per task and torch's Adam, on the paper's objective."""

    def __init__(self, balancer: Balancer, sizes: Sizes) -> None:
        super().__init__(balancer, sizes)
        self.s = [torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(self.K)]
        self.adam = torch.optim.Adam(self.s, lr=balancer.lr)

    @property
    def weights(self) -> Tensor:
        one = torch.ones((), dtype=torch.float64, requires_grad=True)
        return torch.stack([torch.autograd.grad(self.term(k, one), one)[0] for k in range(self.K)])

    def weigh(self, losses: Sequence[Tensor], at: Pass) -> list[float]:
        before = self.weights.tolist()
        self.adam.zero_grad()
        for k, loss in enumerate(losses):
            if loss.item() != 0:
                self.term(k, loss.detach()).backward()
        self.adam.step()
        return before


class NaiveIMTLL(NaiveLearned):
    def term(self, k: int, loss: Tensor) -> Tensor:
        return self.s[k].exp() * loss - self.s[k]


class NaiveUncertaintyWeighting(NaiveLearned):
    def term(self, k: int, loss: Tensor) -> Tensor:
        factor = 0.5 if k in (self.balancer.regressions or []) else 1.0
        return factor * (-self.s[k]).exp() * loss + self.s[k] / 2


# task gradients


class TaskGradientTwin(Twin):
    def __call__(self, at: Pass) -> None:
        losses = at.losses(at.views)
        G = [gradients(loss, at.shared) for loss in losses]  # [K][P]
        for loss in losses:
            add(at.private, gradients(loss, at.private))
        add(at.shared, self.combined(G))


class NaiveMetaBalance(TaskGradientTwin):
    def __init__(self, balancer: Balancer, sizes: Sizes) -> None:
        super().__init__(balancer, sizes)
        self.m = [[0.0] * sizes.parts for _ in range(self.K)]
        self.t = [[0] * sizes.parts for _ in range(self.K)]

    @property
    def target(self) -> int:
        target = self.balancer.target
        return self.balancer.names.index(target) if isinstance(target, str) else target

    @property
    def weights(self) -> Tensor:
        """Of each task the mean over the parts that it has reached."""
        means = []
        for k in range(self.K):
            reached = [p for p in range(len(self.t[k])) if self.t[k][p]]
            means.append(sum(self.weight(k, p) for p in reached) / len(reached) if reached else 1.0)
        return torch.tensor(means, dtype=torch.float64)

    def hat(self, k: int, p: int) -> float:
        return self.m[k][p] / (1 - self.balancer.beta ** self.t[k][p]) if self.t[k][p] else 0.0

    def weight(self, k: int, p: int) -> float:
        target, own, r = self.hat(self.target, p), self.hat(k, p), self.balancer.relax_factor
        if target == 0 or own == 0:
            return 1.0
        if (self.balancer.strategy == "reduce" and not own > target) or (
            self.balancer.strategy == "enlarge" and not own < target
        ):
            return 1.0
        return r * target / own + (1 - r)

    def combined(self, G: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        beta = self.balancer.beta
        for k in range(self.K):
            for p, gradient in enumerate(G[k]):
                norm = gradient.norm().item()
                if norm > 0:
                    self.m[k][p] = beta * self.m[k][p] + (1 - beta) * norm
                    self.t[k][p] += 1
        return [sum(self.weight(k, p) * G[k][p] for k in range(self.K)) for p in range(len(G[0]))]


class NaiveDBMTL(TaskGradientTwin):
    """Every gradient of a logarithm that a task ever had, weighted anew in each step."""

    def __init__(self, balancer: Balancer, sizes: Sizes) -> None:
        super().__init__(balancer, sizes)
        self.seen: list[list[list[Tensor]]] = [[] for _ in range(self.K)]
        self.last = [1.0] * self.K

    @property
    def weights(self) -> Tensor:
        return torch.tensor(self.last, dtype=torch.float64)

    def __call__(self, at: Pass) -> None:
        losses, tables = at.losses(at.views), {id(table) for table in at.tables}
        for loss in losses:
            add(at.private, gradients(loss, at.private))
        present = []
        for k, loss in enumerate(losses):
            if loss.item() > 0 and any(g.any() for g in gradients(loss, at.shared)):
                present.append(k)
                self.seen[k].append(gradients(loss.log(), at.shared))
        averages = {k: self.average(k, at.shared, tables) for k in present}
        sizes = {k: math.sqrt(sum(g.square().sum().item() for g in averages[k])) for k in present}
        for k in present:
            self.last[k] = max(sizes.values()) / sizes[k] / losses[k].item()
            add(at.shared, averages[k], max(sizes.values()) / sizes[k])

    def average(self, k: int, shared: Sequence[Tensor], tables: set[int]) -> list[Tensor]:
        weights: list[float] = []
        for t in range(1, len(self.seen[k]) + 1):
            beta = self.balancer.beta / t**self.balancer.decay
            weights = [beta * w for w in weights] + [1 - beta]
        return [
            self.seen[k][-1][p]
            if id(tensor) in tables
            else sum(w * seen[p] for w, seen in zip(weights, self.seen[k], strict=True)) / sum(weights)
            for p, tensor in enumerate(shared)
        ]


class NaiveExcessMTL(TaskGradientTwin):
    def __init__(self, balancer: Balancer, sizes: Sizes) -> None:
        super().__init__(balancer, sizes)
        self.squares: list[list[Tensor]] = [[] for _ in range(self.K)]  # by task, the squared gradients of each step
        self.first: dict[int, float] = {}
        self.alpha = [1.0] * self.K

    @property
    def weights(self) -> Tensor:
        return torch.tensor(self.alpha, dtype=torch.float64) * self.K / sum(self.alpha)

    def __call__(self, at: Pass) -> None:
        tables = {id(table) for table in at.tables}
        self.kept = [p for p, tensor in enumerate(at.shared) if id(tensor) not in tables]
        super().__call__(at)

    def combined(self, G: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        present = [k for k in range(self.K) if any(g.any() for g in G[k])]
        for k in present:
            flat = [G[k][p].flatten() for p in self.kept] or [g.norm()[None] for g in G[k]]
            flat = torch.cat(flat)
            self.squares[k].append(flat**2)
            root = sum(self.squares[k]).sqrt()
            risk = sum(g**2 / r for g, r in zip(flat.tolist(), root.tolist(), strict=True) if r > 0)
            if k in self.first:
                self.alpha[k] *= math.exp(self.balancer.lr * risk / self.first[k])
            self.first.setdefault(k, risk)
        total = sum(self.alpha[k] for k in present)
        w = [len(present) * self.alpha[k] / total if k in present else 0.0 for k in range(self.K)]
        return [sum(w[k] * G[k][p] for k in range(self.K)) for p in range(len(G[0]))]


def one_after_the_other(G: Sequence[Tensor], orders: Sequence[Sequence[int]]) -> list[Tensor]:
    """PCGrad's algorithm on flat gradients: g_k meets the others in order, always as they came."""
    result = []
    for k, g in enumerate(G):
        for j in orders[k]:
            if j != k and g @ G[j] < 0:
                g = g - (g @ G[j]) / (G[j] @ G[j]) * G[j]
        result.append(g)
    return result


def all_at_once(G: Sequence[Tensor]) -> list[Tensor]:
    """PPCGrad on flat gradients."""
    result = []
    for k, own in enumerate(G):
        g = own.clone()
        for j, other in enumerate(G):
            if j != k and own @ other < 0:
                g -= (own @ other) / (other @ other) * other
        result.append(g)
    return result


class NaivePCGrad(TaskGradientTwin):
    def projected(self, G: Sequence[Tensor]) -> list[Tensor]:
        return one_after_the_other(G, self.balancer.orders(len(G)).tolist())

    def combined(self, G: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        if self.balancer.scope == "whole":
            sizes = [g.numel() for g in G[0]]
            wholes = self.projected([torch.cat([g.flatten() for g in task]) for task in G])
            parts = list(zip(*(g.split(sizes) for g in wholes), strict=True))  # [P][K]
        else:
            parts = [self.projected([g.flatten() for g in column]) for column in zip(*G, strict=True)]
        result = []
        for p, projected in enumerate(parts):
            reached = sum(bool(task[p].any()) for task in G)
            count = max(reached, 1) if self.balancer.reduction == "mean" else 1
            result.append((sum(projected) / count).view_as(G[0][p]))
        return result


class NaivePPCGrad(NaivePCGrad):
    def projected(self, G: Sequence[Tensor]) -> list[Tensor]:
        return all_at_once(G)


class NaiveGradVac(NaivePCGrad):
    def __init__(self, balancer: Balancer, sizes: Sizes) -> None:
        super().__init__(balancer, sizes)
        groups = sizes.parts if balancer.scope == "part" else 1
        self.targets = [[[0.0] * self.K for _ in range(self.K)] for _ in range(groups)]
        self.group = 0

    def projected(self, G: Sequence[Tensor]) -> list[Tensor]:
        targets, beta, result = self.targets[self.group], self.balancer.beta, []
        for k, order in enumerate(self.balancer.orders(len(G)).tolist()):
            g = G[k]
            for j in order:
                if j == k or not G[j].any() or not g.any():
                    continue
                phi, target = (g @ G[j] / (g.norm() * G[j].norm())).item(), targets[k][j]
                if phi < target:
                    size = target * math.sqrt(1 - phi**2) - phi * math.sqrt(1 - target**2)
                    g = g + g.norm() * size / (G[j].norm() * math.sqrt(1 - target**2)) * G[j]
                targets[k][j] = (1 - beta) * target + beta * phi
            result.append(g)
        self.group = (self.group + 1) % len(self.targets)
        return result


def without_all_conflicts(G: Sequence[Tensor], epsilon: float) -> list[Tensor]:
    """GradCraft's second stage on flat gradients: least squares, as a system of equal tasks is singular."""
    result = []
    for k, g in enumerate(G):
        against = [j for j in range(len(G)) if j != k and g @ G[j] < 0]
        if against:
            units = torch.stack([G[j] / G[j].norm() for j in against])
            inverse = torch.linalg.pinv(units, rtol=1e-7)  # [n, m]
            towards = inverse.sum(1)
            reached = min(epsilon, 1 / towards.norm().item())
            g = g - inverse @ (units @ g) + reached * g.norm() * towards
        result.append(g)
    return result


class NaiveGradCraft(NaivePCGrad):
    def projected(self, G: Sequence[Tensor]) -> list[Tensor]:
        tau, largest = self.balancer.tau, max(g.norm() for g in G)
        sized = [tau * largest / g.norm() * g + (1 - tau) * g if g.any() else g for g in G]
        return without_all_conflicts(sized, self.balancer.epsilon)


class GramTwin(TaskGradientTwin):
    """One weight per task, from the flat gradients of the present tasks alone."""

    def __init__(self, balancer: Balancer, sizes: Sizes) -> None:
        super().__init__(balancer, sizes)
        self.last = [1.0] * self.K
        self.values: list[float] = []

    @property
    def weights(self) -> Tensor:
        return torch.tensor(self.last, dtype=torch.float64)

    def __call__(self, at: Pass) -> None:
        self.values = [loss.item() for loss in at.losses(at.views)]
        super().__call__(at)

    def combined(self, G: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        flat = [torch.cat([g.flatten() for g in task]) for task in G]
        present = [k for k in range(self.K) if flat[k].any()]
        if present:
            found = self.weigh(torch.stack([flat[k] for k in present]), present)
            for k, weight in zip(present, found.tolist(), strict=True):
                self.last[k] = weight
        return [sum((self.last[k] * G[k][p] for k in present), torch.zeros_like(G[0][p])) for p in range(len(G[0]))]

    def weigh(self, G: Tensor, present: Sequence[int]) -> Tensor:
        """The weights `[m]` of the gradients `[m, n]` of present tasks."""
        raise NotImplementedError

    def shares(self, present: Sequence[int]) -> Tensor:
        given = self.balancer.preference or [1.0] * self.K
        shares = torch.tensor([given[k] for k in present], dtype=torch.float64)
        return shares / shares.sum()


def shortest(G: Tensor) -> Tensor:
    """The convex weights of the shortest combination: the least squares of (Gᵀw, Σw) against (0, 1), rescaled."""
    scale = G.norm(dim=1).max()
    w, _ = nnls(torch.cat([G.T / scale, torch.ones(1, len(G), dtype=G.dtype)]).numpy(), [0.0] * G.shape[1] + [1.0])
    return torch.from_numpy(w / w.sum())


def without_conflict(G: Tensor, start: Tensor) -> Tensor:
    """The weights v ≥ `start` of the least ‖Gᵀv‖: those of the projection of Gᵀstart onto the dual cone."""
    norms = G.norm(dim=1)
    x, _ = nnls((G / norms[:, None]).T.numpy(), -(G.T @ start).numpy())
    return start + torch.from_numpy(x) / norms


class NaiveMGDA(GramTwin):
    def weigh(self, G: Tensor, present: Sequence[int]) -> Tensor:
        s = torch.ones(len(G), dtype=torch.float64)
        if self.balancer.normalization in ("l2", "loss+"):
            s *= G.norm(dim=1)
        if self.balancer.normalization in ("loss", "loss+"):
            s *= torch.tensor([self.values[k] for k in present], dtype=torch.float64)
        return shortest(G / s[:, None]) / s


class NaiveUPGrad(GramTwin):
    def weigh(self, G: Tensor, present: Sequence[int]) -> Tensor:
        units = torch.eye(len(G), dtype=torch.float64)
        return sum(share * without_conflict(G, unit) for share, unit in zip(self.shares(present), units, strict=True))


class NaiveDualProj(GramTwin):
    def weigh(self, G: Tensor, present: Sequence[int]) -> Tensor:
        return without_conflict(G, self.shares(present))


def fair_weights(G: Tensor, alpha: float) -> Tensor:
    """The w > 0 with Mw = w^(−1/α): the least of a potential whose gradient this is, in units of the norms."""
    norms, p = G.norm(dim=1), 1 / alpha
    off = 1 - 1e-8 * (1 - torch.eye(len(G), dtype=G.dtype))  # as documented, so that there is a solution
    Q = (off * (G @ G.T) / norms / norms[:, None]).numpy()
    size = norms.max()
    t = ((norms / size) ** (p - 1)).numpy()

    def potential(s):
        return np.exp(s) @ Q @ np.exp(s) / 2 - (t * (s if p == 1 else np.exp((1 - p) * s) / (1 - p))).sum()

    def slope(s):
        return np.exp(s) * (Q @ np.exp(s)) - t * np.exp((1 - p) * s)

    u = np.exp(minimize(potential, 0 * t, jac=slope, method="BFGS", options={"gtol": 1e-7}).x)
    for _ in range(5):
        u = u - np.linalg.solve(Q + np.diag(p * t * u ** (-p - 1)), Q @ u - t * u**-p)
    return size ** ((p - 1) / (p + 1)) * torch.from_numpy(u) / norms


def nearest(G: Tensor, least: float, start: Tensor) -> tuple[Tensor, float]:
    """The v ≥ 0 of the shortest x = Gᵀv that brings all products with `start` to `least`, and its length.

    As least squares (Lawson and Hanson, "Solving least squares problems", chapter 23).
    """
    norms = G.norm(dim=1)
    E = torch.cat([G / norms[:, None], (least - G @ start)[:, None] / norms[:, None]], 1).T
    u, _ = nnls(E.numpy(), [0.0] * G.shape[1] + [1.0])
    v = torch.from_numpy(u) / (1 - E[-1] @ torch.from_numpy(u)) / norms
    return v, (v @ G).norm().item()


class NaiveCAGrad(GramTwin):
    """Raises the least gain until the ball is reached."""

    def weigh(self, G: Tensor, present: Sequence[int]) -> Tensor:
        e = 1e-8  # as documented: gradients whose products are reduced by it
        G = torch.cat([math.sqrt(1 - e) * G, math.sqrt(e) * torch.diag(G.norm(dim=1))], 1)
        mean, c = G.mean(0), self.balancer.c
        radius = c * mean.norm().item()
        low = (G @ mean).min().item()
        high = low + 1.01 * radius * G.norm(dim=1).max().item()
        least = brentq(lambda t: nearest(G, t, mean)[1] - radius, low, high, xtol=1e-16, rtol=1e-15) if c else low
        weights = 1 / len(G) + (nearest(G, least, mean)[0] if c else torch.zeros(len(G), dtype=G.dtype))
        return weights / {"none": 1.0, "linear": 1 + c, "square": 1 + c**2}[self.balancer.rescale]


class NaiveIMTLG(GramTwin):
    def weigh(self, G: Tensor, present: Sequence[int]) -> Tensor:
        norms = G.norm(dim=1)
        w = torch.linalg.lstsq((G / norms[:, None]) @ (G / norms[:, None]).T, torch.ones_like(norms)).solution / norms
        return w / w.sum()


class NaiveAlignedMTL(GramTwin):
    def weigh(self, G: Tensor, present: Sequence[int]) -> Tensor:
        U, S, _ = torch.linalg.svd(G, full_matrices=False)
        kept = S.square() > 2e-13 * len(G) * S[0].square()
        U, S = U[:, kept], S[kept]
        return S.min() * (U / S) @ U.T @ self.shares(present)


class NaiveFairGrad(GramTwin):
    def weigh(self, G: Tensor, present: Sequence[int]) -> Tensor:
        return fair_weights(G, self.balancer.alpha)


class NaiveNashMTL(GramTwin):
    def __init__(self, balancer: Balancer, sizes: Sizes) -> None:
        super().__init__(balancer, sizes)
        self.solution: dict[int, float] = {}
        self.steps = 0

    def weigh(self, G: Tensor, present: Sequence[int]) -> Tensor:
        if self.steps % self.balancer.every == 0 or not set(present) <= set(self.solution):
            self.solution |= dict(zip(present, fair_weights(G, 1.0).tolist(), strict=True))
        self.steps += 1
        w = torch.tensor([self.solution[k] for k in present], dtype=torch.float64)
        limit = math.inf if self.balancer.max_norm is None else self.balancer.max_norm
        return w * min(1.0, limit / (w @ G).norm().item())


# representation


class RepresentationTwin(Twin):
    def normalized(self, losses: Sequence[Tensor]) -> list[Tensor]:
        return list(losses)

    def __call__(self, at: Pass) -> None:
        inputs = [x.detach().requires_grad_() for x in self.turned(at.views)]
        losses = at.losses(inputs)
        ghat = [torch.zeros_like(x) for x in inputs]
        for loss in self.normalized(losses):
            for k, term in enumerate(gradients(loss, inputs)):
                ghat[k] += term
            add(at.private, gradients(loss, at.private))
        before = [*at.shared, *at.private]
        received = self.received(ghat, at.views, [loss.item() for loss in losses])
        for view, h in zip(at.views, received, strict=True):
            add(before, gradients((view * h).sum(), before))


class NaiveNormalizedSplitter(RepresentationTwin):
    def __init__(self, balancer: Balancer, sizes: Sizes) -> None:
        super().__init__(balancer, sizes)
        self.v, self.t = [0.0] * self.H, [0] * self.H

    @property
    def weights(self) -> Tensor:
        scales = [self.scale(k) if self.t[k] else 0.0 for k in range(self.H)]
        return torch.tensor(scales, dtype=torch.float64)

    def scale(self, k: int) -> float:
        weights = self.balancer.task_weights.tolist()
        return weights[k] / sum(weights) / math.sqrt(self.v[k] / (1 - self.balancer.beta ** self.t[k]))

    def projected(self, h: Sequence[Tensor]) -> list[Tensor]:
        orders = self.balancer.orders(self.H).tolist()
        samples = [one_after_the_other(list(rows), orders) for rows in zip(*h, strict=True)]  # [B][H]
        return [torch.stack(rows) for rows in zip(*samples, strict=True)]

    def normalized_size(self, k: int, h: Tensor, n: int) -> Tensor:
        q = (n * h).square().sum().item() / n if self.balancer.batch_scale else h.square().sum().item() / len(h)
        self.t[k] += 1
        self.v[k] = self.balancer.beta * self.v[k] + (1 - self.balancer.beta) * q
        return self.scale(k) * h

    def received(self, ghat: Sequence[Tensor], views: Sequence[Tensor], values: Sequence[float]) -> list[Tensor]:
        n = [sum(bool(row.any()) for row in g) for g in ghat]
        h = self.projected(ghat) if self.balancer.projection == "before" else ghat
        h = [self.normalized_size(k, x, n[k]) if x.any() else x for k, x in enumerate(h)]
        return self.projected(h) if self.balancer.projection == "after" else h


class NaiveGradDrop(RepresentationTwin):
    def __init__(self, balancer: Balancer, sizes: Sizes) -> None:
        super().__init__(balancer, sizes)
        self.kept = [1.0] * self.H

    @property
    def weights(self) -> Tensor:
        return torch.tensor(self.kept, dtype=torch.float64)

    def received(self, ghat: Sequence[Tensor], views: Sequence[Tensor], values: Sequence[float]) -> list[Tensor]:
        features = ghat[0].shape[1]
        drawn = self.balancer.random.uniform(features).tolist()
        leaks = [self.balancer.leak] * self.H if isinstance(self.balancer.leak, float) else self.balancer.leak
        result, kept = [g.clone() for g in ghat], [0] * self.H
        for n in range(features):
            s = [(view[:, n].sign() * g[:, n]).sum().item() for view, g in zip(views, ghat, strict=True)]
            size = sum(abs(x) for x in s)
            positive = size > 0 and (1 + sum(s) / size) / 2 > drawn[n]
            for k in range(self.H):
                keeps = s[k] > 0 if positive else s[k] < 0
                kept[k] += keeps
                result[k][:, n] *= 1.0 if keeps else leaks[k]
        for k in range(self.H):
            if ghat[k].any():
                self.kept[k] = kept[k] / features
        return result


def turn(x: Tensor, R: Tensor) -> Tensor:
    """R applied to the leading coordinates of each row."""
    size = len(R)
    return torch.cat([x[:, :size] @ R.T, x[:, size:]], 1)


def tangent(R: Tensor, slope: Tensor) -> Tensor:
    """What of a gradient of R turns it."""
    return R @ (R.T @ slope - slope.T @ R) / 2


class NaiveRotateOnly(RepresentationTwin):
    """A rotation module per head, turned by autograd through the rotation loss."""

    def __init__(self, balancer: Balancer, sizes: Sizes) -> None:
        super().__init__(balancer, sizes)
        size = balancer.rotation_size or sizes.features
        self.modules = [nn.Linear(size, size, bias=False, dtype=torch.float64) for _ in range(self.H)]
        for module in self.modules:
            nn.init.eye_(module.weight)
            orthogonal(module, orthogonal_map=balancer.orthogonal_map)
        self.rotations = [p for module in self.modules for p in module.parameters()]
        self.first_losses: dict[int, float] = {}

    def matrices(self) -> Tensor:
        return torch.stack([module.weight.detach() for module in self.modules])

    def turned(self, views: Sequence[Tensor]) -> list[Tensor]:
        return [turn(view, module.weight.detach()) for view, module in zip(views, self.modules, strict=True)]

    def normalized(self, losses: Sequence[Tensor]) -> list[Tensor]:
        if not self.balancer.normalize_losses:
            return list(losses)
        for k, loss in enumerate(losses):
            if loss.item() > 0:
                self.first_losses.setdefault(k, loss.item())
        return [loss / self.first_losses.get(k, 1.0) for k, loss in enumerate(losses)]

    def received(self, ghat: Sequence[Tensor], views: Sequence[Tensor], values: Sequence[float]) -> list[Tensor]:
        h = [turn(g, module.weight.detach().T) for g, module in zip(ghat, self.modules, strict=True)]
        self.rotate(h, ghat, views)
        factors = self.factors([x.norm().item() for x in h], values)
        return [factor * x for factor, x in zip(factors, h, strict=True)]

    def rotate(self, h: Sequence[Tensor], ghat: Sequence[Tensor], views: Sequence[Tensor]) -> None:
        present = [k for k in range(len(h)) if h[k].any()]
        for k, module in enumerate(self.modules):
            module.weight.backward(torch.zeros_like(module.weight))  # the gradient of an absent task is 0
            if k in present and len(present) > 1:  # alone, v is h_k itself, and nothing turns
                R = module.weight.detach().requires_grad_()
                (slope,) = torch.autograd.grad(self.rotation_loss(R, ghat[k], [h[j] for j in present]), R)
                if self.balancer.cooperative:
                    slope = self.cooperative(R, slope, views[k].detach(), ghat[k])
                module.weight.backward(slope)

    def rotation_loss(self, R: Tensor, ghat: Tensor, h: Sequence[Tensor]) -> Tensor:
        mean = sum(h) / len(h)
        v = sum(x * mean.norm() / x.norm() for x in h) / len(h)
        B = len(ghat)
        if self.balancer.batch_scale:
            return (turn(B * v, R) - B * ghat).square().sum(1).mean()
        return (turn(v, R) - ghat).square().sum()  # the published package adds up over the batch

    def cooperative(self, R: Tensor, slope: Tensor, view: Tensor, ghat: Tensor) -> Tensor:
        a, b = tangent(R.detach(), slope), tangent(R.detach(), torch.autograd.grad((turn(view, R) * ghat).sum(), R)[0])
        size = ((a + b) / 2).norm()
        return a * size / a.norm() + b * size / b.norm()

    def factors(self, norms: Sequence[float], values: Sequence[float]) -> list[float]:
        return [1.0] * len(norms)


class NaiveRotoGrad(NaiveRotateOnly):
    def __init__(self, balancer: Balancer, sizes: Sizes) -> None:
        super().__init__(balancer, sizes)
        self.first_norms: dict[int, float] = {}
        self.steps = [0] * self.H

    def factors(self, norms: Sequence[float], values: Sequence[float]) -> list[float]:
        present = [k for k, n in enumerate(norms) if n > 0]
        for k in present:
            if self.steps[k] in (0, self.balancer.burn_in):
                self.first_norms[k] = norms[k]
            self.steps[k] += 1
        c = {k: norms[k] / self.first_norms[k] for k in present}
        size = sum(c[k] / sum(c.values()) * norms[k] for k in present)
        return [size / n if n > 0 else 0.0 for n in norms]


class NaiveRotoGradNorm(NaiveRotateOnly):
    def __init__(self, balancer: Balancer, sizes: Sizes) -> None:
        super().__init__(balancer, sizes)
        self.rule = NaiveWeights(self.H, balancer.alpha, balancer.lr, balancer.burn_in)

    @property
    def weights(self) -> Tensor:
        return self.rule.w().detach()

    def factors(self, norms: Sequence[float], values: Sequence[float]) -> list[float]:
        return self.rule.step(values, norms)


TWINS: dict[type[Balancer], type[Twin]] = {
    balance.Sum: NaiveSum,
    balance.FixedWeights: NaiveFixedWeights,
    balance.GradNorm: NaiveGradNorm,
    balance.RLW: NaiveRLW,
    balance.DWA: NaiveDWA,
    balance.FAMO: NaiveFAMO,
    balance.ExcessMTL: NaiveExcessMTL,
    balance.GLS: NaiveGLS,
    balance.STCH: NaiveSTCH,
    balance.IMTLL: NaiveIMTLL,
    balance.UncertaintyWeighting: NaiveUncertaintyWeighting,
    balance.MetaBalance: NaiveMetaBalance,
    balance.PCGrad: NaivePCGrad,
    balance.PPCGrad: NaivePPCGrad,
    balance.DBMTL: NaiveDBMTL,
    balance.GradVac: NaiveGradVac,
    balance.GradCraft: NaiveGradCraft,
    balance.MGDA: NaiveMGDA,
    balance.UPGrad: NaiveUPGrad,
    balance.DualProj: NaiveDualProj,
    balance.IMTLG: NaiveIMTLG,
    balance.AlignedMTL: NaiveAlignedMTL,
    balance.CAGrad: NaiveCAGrad,
    balance.NashMTL: NaiveNashMTL,
    balance.FairGrad: NaiveFairGrad,
    balance.GradDrop: NaiveGradDrop,
    balance.NormalizedSplitter: NaiveNormalizedSplitter,
    balance.RotateOnly: NaiveRotateOnly,
    balance.RotoGrad: NaiveRotoGrad,
    balance.RotoGradNorm: NaiveRotoGradNorm,
}


def twin_of(balancer: Balancer, sizes: Sizes) -> Twin:
    return TWINS[type(balancer)](balancer, sizes)


def rotation_optimizers(balancer: Balancer, twin: Twin, lr: float) -> list[torch.optim.Optimizer]:
    """An Adam for the rotations of each; none for a method without rotations."""
    pairs = (list(balancer.parameters()), twin.rotations)
    return [torch.optim.Adam(rotations, lr=lr) for rotations in pairs if rotations]
