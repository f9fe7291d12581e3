"""The rotating methods beside the published package, rotograd 0.1.6.0: the same net, data and optimizers, 50 steps.

Both parametrize a rotation by the lower triangle of a skew matrix and its exponential, so that Adam takes the same
steps. The package's rotations are set to the identity first. It takes the exponential of one matrix at a time; for
small ones torch 2.13 evaluates that by a polynomial of degree 8 with a wrong coefficient, and those of a batch by
another, which is right. So the package is run as it is, to 1e-7, and with its exponentials taken in a batch, to 1e-12.
"""

import copy
import math

import pytest
import rotograd
import torch
from torch import nn

from recmtl import balance
from recmtl.balance import BalancedModule

STEPS, ROWS, INPUTS, FEATURES = 50, 32, 5, 6
NEVER = {"burn_in_period": STEPS}  # the package takes the first losses anew at burn-in, this library does not


def in_a_batch(skew):
    return torch.matrix_exp(skew.expand(2, -1, -1))[0]


def tower():
    return nn.Sequential(nn.Linear(FEATURES, 7), nn.Tanh(), nn.Linear(7, 1)).double()


class Side:
    """A model of either kind, its parameters by name, and an Adam for the net and one for the rotations."""

    def __init__(self, model, backbone, heads, rotations):
        self.model = model
        self.net = {"backbone": list(backbone.parameters())}
        self.net |= {f"head {index}": list(head.parameters()) for index, head in enumerate(heads)}
        self.rotations = rotations
        net = [p for group in self.net.values() for p in group]
        self.optimizers = [torch.optim.Adam(net, 0.01), torch.optim.Adam(rotations, 0.01)]

    def backward(self, x, losses):
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.values = losses(self.model(x))
        self.model.backward(self.values)

    def gradients(self, group):
        return torch.cat([p.grad.flatten() for p in self.net[group]])

    def step(self):
        for optimizer in self.optimizers:
            optimizer.step()


class Beside:
    """Both sides from the same weights, stepped together; keeps the largest relative deviation of everything."""

    def __init__(self, method, tasks, here=None, there=None, exponential=in_a_batch, heads=None):
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Linear(INPUTS, 12), nn.Tanh(), nn.Linear(12, FEATURES)).double()
        heads = heads or [tower() for _ in range(tasks)]
        self.tasks, self.worst = tasks, {}
        self.ours = self._ours(method, copy.deepcopy(backbone), copy.deepcopy(heads), here or {})
        self.theirs = self._theirs(method, backbone, heads, there or {}, exponential)

    def _ours(self, method, backbone, heads, options):
        options = {"batch_scale": False, "orthogonal_map": "matrix_exp"} | options
        self.balancer = getattr(balance, method)(heads=self.tasks, features=FEATURES, **options).double()
        model = BalancedModule(backbone, heads, self.balancer)
        return Side(model, backbone, heads, list(self.balancer.parameters()))

    def _theirs(self, method, backbone, heads, options, exponential):
        options = {"rotation_shape": FEATURES} | options
        model = getattr(rotograd, method)(backbone, list(heads), **options).double()  # it writes into the list
        for name, rotation in model.parametrizations.items():
            setattr(model, name, torch.eye(options["rotation_shape"], dtype=torch.float64))
            if exponential is not None:
                rotation[0].triv = exponential
        return Side(model, backbone, heads, [rotation.original for rotation in model.parametrizations.values()])

    def batches(self, steps=STEPS):
        for _ in range(steps):
            x = torch.randn(ROWS, INPUTS, dtype=torch.float64)
            yield x, x[:, : self.tasks] + torch.randn(ROWS, self.tasks, dtype=torch.float64)

    def backward(self, x, losses):
        self.ours.backward(x, losses)
        self.theirs.backward(x, losses)

    def step(self):
        self.ours.step()
        self.theirs.step()

    def compare_gradients(self):
        for group in self.ours.net:
            self.compare(group, self.ours.gradients(group), self.theirs.gradients(group))
        (stacked,) = self.ours.rotations
        for index, theirs in enumerate(self.theirs.rotations):
            self.compare("rotation gradient", stacked.grad[index], theirs.grad)

    def compare_rotations(self):
        for ours, theirs in zip(self.balancer.rotation(), self.theirs.model.rotation, strict=True):
            self.compare("rotation", ours, theirs.detach())

    def compare(self, what, ours, theirs):
        deviation = ((ours - theirs).norm() / theirs.norm()).item()
        assert math.isfinite(deviation), what
        self.worst[what] = max(self.worst.get(what, 0.0), deviation)

    def turned(self):
        rotation = self.balancer.rotation()
        return (rotation - torch.eye(rotation.shape[1])).norm(dim=(1, 2)).min().item()


def errors(y):
    """The tasks' losses, each three times as large as the one before."""
    return lambda outputs: [
        3.0**k * (output.squeeze(1) - target).square().mean()
        for k, (output, target) in enumerate(zip(outputs, y.T, strict=True))
    ]


CASES = {
    "RotateOnly": ("RotateOnly", {}, {}),
    "RotateOnly normalized": ("RotateOnly", {"normalize_losses": True}, {"normalize_losses": True} | NEVER),
    "RotoGrad": ("RotoGrad", {}, {}),
    "RotoGrad burn-in 7": ("RotoGrad", {"burn_in": 7}, {"burn_in_period": 7}),
    "RotoGrad size 4": ("RotoGrad", {"rotation_size": 4}, {"rotation_shape": 4}),
    "RotoGrad normalized": (
        "RotoGrad",
        {"normalize_losses": True, "burn_in": STEPS},
        {"normalize_losses": True} | NEVER,
    ),
}


@pytest.mark.parametrize(
    ("exponential", "tolerance", "tasks"),
    [(None, 1e-7, 2), (in_a_batch, 1e-12, 2), (in_a_batch, 1e-12, 3)],
    ids=["as is", "batched", "batched, three tasks"],
)
@pytest.mark.parametrize("case", CASES)
def test_takes_the_same_steps(case, tasks, exponential, tolerance):
    method, here, there = CASES[case]
    pair = Beside(method, tasks, here, there, exponential)
    for x, y in pair.batches():
        pair.backward(x, errors(y))
        pair.compare_gradients()
        pair.step()
        pair.compare_rotations()
    assert pair.turned() > 0.1  # otherwise nothing was compared
    assert max(pair.worst.values()) < tolerance, pair.worst


@pytest.mark.parametrize("method", ["RotateOnly", "RotoGrad", "RotoGradNorm"])
def test_published_rotations_start_elsewhere(method):
    torch.manual_seed(0)
    options = {"alpha": 1.0} if method == "RotoGradNorm" else {}
    model = getattr(rotograd, method)(nn.Linear(INPUTS, FEATURES), [tower(), tower()], FEATURES, **options)
    assert all((rotation - torch.eye(FEATURES)).norm() > 1.0 for rotation in model.rotation)


@pytest.mark.parametrize("method", ["RotateOnly", "RotoGrad"])
def test_published_first_losses_are_taken_anew_at_burn_in(method):
    pair = Beside(method, 2, {"normalize_losses": True}, {"normalize_losses": True, "burn_in_period": 3})
    for step, (x, y) in enumerate(pair.batches(4)):
        pair.backward(x, errors(y))
        if step == 0:
            first = [loss.item() for loss in pair.ours.values]
        elif step < 3:
            pair.compare_gradients()
        pair.step()
    for index, (loss, start) in enumerate(zip(pair.ours.values, first, strict=True)):
        group = f"head {index}"
        pair.compare("at burn-in", pair.ours.gradients(group) * start / loss.item(), pair.theirs.gradients(group))
    assert all(abs(loss.item() / start - 1) > 0.01 for loss, start in zip(pair.ours.values, first, strict=True))
    assert max(pair.worst.values()) < 1e-12, pair.worst


def beside_gradnorm(tasks, heads=None):
    options = {"alpha": 1.5}
    pair = Beside("RotoGradNorm", tasks, options, options, heads=heads)
    weights = list(pair.theirs.model.weight_.double())
    pair.theirs.optimizers.append(torch.optim.Adam(weights, pair.balancer.lr))
    return pair, weights


def test_rotogradnorm_takes_the_same_steps_where_all_gradients_are_parallel():
    """The norm of the mean gradient, its target, is then the mean of the norms, that of GradNorm."""
    torch.manual_seed(0)
    head = tower().requires_grad_(False)
    pair, _ = beside_gradnorm(3, [copy.deepcopy(head) for _ in range(3)])
    for side in (pair.ours, pair.theirs):
        del side.optimizers[1]  # rounding alone turns the rotations, and would be enlarged
    for x, y in pair.batches():

        def losses(outputs, y=y):
            errors = [(output.squeeze(1) - y[:, 0]).square().mean() for output in outputs]
            return [errors[0], 3 * errors[1] + 1, 30 * errors[2] + 100]  # parallel, and not learned at one rate

        pair.backward(x, losses)
        pair.compare("backbone", pair.ours.gradients("backbone"), pair.theirs.gradients("backbone"))
        pair.step()
        pair.compare("weights", pair.balancer.weights, torch.stack(list(pair.theirs.model.weight)).detach())
    assert (pair.balancer.weights - 1).abs().max() > 0.1
    assert max(pair.worst.values()) < 1e-12, pair.worst


def slopes(weights, norms, targets):
    """∂ Σ|w_k·n_k − T_k| / ∂ω for w = K·softmax(ω), by autograd."""
    logits = weights.log().requires_grad_()
    sizes = len(weights) * logits.softmax(0) * norms
    return torch.autograd.grad((sizes - targets).abs().sum(), logits)[0]


def test_published_rotogradnorm_aims_at_the_norm_of_the_mean_gradient():
    """At equal weights both sides give the same gradients; the package's weights move to a target of their own."""
    pair, published = beside_gradnorm(3)
    apart = 0
    for step, (x, y) in enumerate(pair.batches()):
        with torch.no_grad():
            pair.balancer.rule.adam.values.copy_(torch.stack(published))
        weights = pair.balancer.weights
        pair.backward(x, errors(y))
        pair.compare_gradients()
        values = torch.stack(pair.ours.values).detach()
        if step in (0, 20):
            first = values
        rates = (values / first) / (values / first).mean()
        h = torch.stack(pair.theirs.model.original_grads)
        norms = h.norm(dim=(1, 2))
        mean = (weights[:, None, None] * h).mean(0).norm()
        found = torch.stack([weight.grad for weight in published])
        pair.compare("weights' gradient", slopes(weights, norms, mean * rates**1.5), found)
        apart += not torch.allclose(slopes(weights, norms, (weights * norms).mean() * rates**1.5), found)
        pair.step()
        pair.compare_rotations()
    assert apart > 0  # GradNorm's own target, the mean of the norms, pulls otherwise
    assert max(pair.worst.values()) < 1e-12, (pair.worst, apart)
