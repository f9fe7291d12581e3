"""Every balancer with every choice among its options."""

from typing import NamedTuple

from twins import BALANCERS

from recmtl import balance
from recmtl.balance import Balancer, Sizes


class Case(NamedTuple):
    method: type[Balancer]
    options: dict[str, object]
    cooperative: bool = False

    def __str__(self) -> str:
        options = [f"{name}={value}" for name, value in self.options.items()] + ["coop"] * self.cooperative
        return " ".join([self.method.__name__, *options])

    def balancer(self, sizes: Sizes, names: list[str]) -> Balancer:
        balancer = self.method(**self.options)
        balancer.setup(**sizes._asdict(), names=names)
        if self.cooperative:
            balancer.coop()
        return balancer.double()


SPLITTER = {"beta": 0.9, "projection": "none", "seed": 3}
CASES = [
    *(Case(method, {}) for method in BALANCERS),
    Case(balance.GradNorm, {"alpha": 0.5, "lr": 0.1}),
    Case(balance.FixedWeights, {"task_weights": {"ctr": 0.5, "cvr": 2.5, "ctcvr": 0.0}}),
    Case(balance.STCH, {"mu": 1.0}),
    Case(balance.FAMO, {"lr": 0.1, "decay": 0.5}),
    Case(balance.ExcessMTL, {"lr": 1.0}),
    Case(balance.UncertaintyWeighting, {"regressions": [1], "lr": 0.1}),
    *(Case(balance.MetaBalance, {"strategy": strategy, "beta": 0.5}) for strategy in ("both", "reduce", "enlarge")),
    Case(balance.MetaBalance, {"target": "ctcvr", "relax_factor": 1.0}),
    *(
        Case(method, {"reduction": reduction, "scope": scope})
        for method in (balance.PCGrad, balance.PPCGrad, balance.GradVac)
        for reduction in ("mean", "sum")
        for scope in ("whole", "part")
    ),
    *(Case(balance.DBMTL, options) for options in ({"beta": 0.5, "decay": 0.5}, {"beta": 0.0})),
    Case(balance.GradCraft, {"tau": 0.5, "epsilon": 0.2, "reduction": "sum", "scope": "part"}),
    Case(balance.GradCraft, {"tau": 0.0, "epsilon": 1.0}),
    *(Case(balance.MGDA, {"normalization": normalization}) for normalization in ("l2", "loss", "loss+")),
    Case(balance.CAGrad, {"c": 0.8, "rescale": "linear"}),
    Case(balance.CAGrad, {"c": 0.1, "rescale": "square"}),
    Case(balance.NashMTL, {"every": 3, "max_norm": None}),
    *(Case(balance.FairGrad, {"alpha": alpha}) for alpha in (0.5, 2.0)),
    Case(balance.GradDrop, {"leak": 0.25, "seed": 5}),
    *(
        Case(balance.NormalizedSplitter, SPLITTER | {"projection": projection, "batch_scale": batch_scale})
        for projection in ("none", "before", "after")
        for batch_scale in (True, False)
    ),
    *(
        Case(method, options)
        for method in (balance.RotateOnly, balance.RotoGrad, balance.RotoGradNorm)
        for options in (
            {"batch_scale": False},
            {"rotation_size": 3},
            {"orthogonal_map": "matrix_exp"},
            {"normalize_losses": True},
        )
    ),
    *(Case(method, {"burn_in": 4}) for method in (balance.RotoGrad, balance.RotoGradNorm)),
    *(Case(method, {}, True) for method in (balance.RotateOnly, balance.RotoGrad, balance.RotoGradNorm)),
]
