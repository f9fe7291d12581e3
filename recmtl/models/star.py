"""STAR: layers whose weights are shared ones times those of the row's domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recmtl.balance import SharedTensor
from recmtl.balance.backward import on_host
from recmtl.data import Batch
from recmtl.features import EmbeddingTable, FeatureEncoder
from recmtl.features.growth import RowOrigins, domain_origins
from recmtl.features.pooling import side_by_side
from recmtl.layers import MLP, LayerStyle
from recmtl.models.base import EncoderFactory, RankingModel, Shared, Tower
from recmtl.models.domains import check_has_domain, check_one_network, checked_domain, domains_of
from recmtl.schema import FittedSchema, Schema

DOMAIN_WIDTH = 8  # of the embedding that the auxiliary network reads


class STAR(RankingModel):
    r"""Star topology adaptive recommender: each domain has a network of its own around a shared one.

    Sheng, Zhao, Zhou, Ding, Dai, Luo, Yang, Lv, Zhang, Deng and Zhu, "One Model to Serve All: Star Topology Adaptive
    Recommender for Multi-Domain CTR Prediction", CIKM 2021, equations 7 to 9. A layer has shared weights W and b, and
    weights of each domain d; a row of that domain passes through

    $$
    h \mapsto \phi\big((W_d \otimes W)\, h + b_d + b\big)
    $$

    W_d starts at 1 and b_d at 0. Rows of no training domain, or without one, pass through the shared weights alone. An
    auxiliary network reads an embedding of the domain beside the encoded batch. Its output stands beside that of the
    star in the views; a tower of one linear layer adds both up, as the paper does with logits.

    All tasks read the same view, and so train all of these layers. Use it where rows come from a few domains that are
    alike in part: countries, pages, apps.

    Note:
        The paper's partitioned normalisation is left out: `style.normalization` is that of all rows. It takes mean and
        variance of the rows of one domain, for which the paper draws each batch from one domain alone. Batches here mix
        domains as the rows do, so that balancers compare them, and hold but a row or two of a rare one.

    Shape:
        - output: ``{task: [B]}``, logits

    Args:
        schema: The fitted schema, with a domain; its tasks are the heads and the objectives.
        layers: The widths of the star's layers.
        auxiliary_layers: The widths of the auxiliary network's layers.
        tower_layers: The hidden layers of the default towers.
        style: Normalisation, activation, dropout and initialisation of all layers; ensembles are not supported.
        towers: Towers of your own by task, each a callable from D, the width of a view, to a module.
        encoder: Builds the encoder.

    Raises:
        ValueError: The schema has no domain, or one of more than 64 categories; `layers` or `auxiliary_layers` is
            empty, `style` is an ensemble, or `towers` names no task.

    Example:
        >>> import pandas as pd, recmtl
        >>> features = [recmtl.Categorical("item"), recmtl.Categorical("country")]
        >>> schema = recmtl.Schema(features, [recmtl.Task("ctr", "click")], domain="country")
        >>> rows = pd.DataFrame({"item": ["a", "b", "a"], "country": ["US", "NL", "US"], "click": [1, 0, 1]})
        >>> model = STAR(recmtl.prepare(schema, rows, holdout=0).schema, layers=[32, 16], auxiliary_layers=[8])
        >>> model.view_features, tuple(model.layers[1].domain_weight.shape)
        (24, (2, 16, 32))
    """

    def __init__(
        self,
        schema: FittedSchema,
        layers: Sequence[int] = (256, 128),
        auxiliary_layers: Sequence[int] = (64,),
        tower_layers: Sequence[int] = (64,),
        style: LayerStyle = LayerStyle(),
        towers: Mapping[str, Tower] | None = None,
        encoder: EncoderFactory = FeatureEncoder,
    ) -> None:
        domain = checked_domain("STAR", schema)
        check_one_network("STAR", style)
        for name, sizes in {"layers": layers, "auxiliary_layers": auxiliary_layers}.items():
            if not sizes:
                raise ValueError(f"`{name}` must hold at least one layer, got none")
        super().__init__(schema, schema.schema.tasks, encoder)
        self._domain = domain
        domains, width = len(self._domain.categories), self.encoder.out_features
        widths = zip([width, *layers], layers, strict=False)
        self.layers = nn.ModuleList(StarLinear(before, after, domains, style) for before, after in widths)
        self.after = nn.ModuleList(style.after(size) for size in layers)
        self.domain_embedding = EmbeddingTable([self._domain.block], DOMAIN_WIDTH)
        self.auxiliary = MLP(width + DOMAIN_WIDTH, auxiliary_layers, style)
        self.build_heads(self.objectives, layers[-1] + auxiliary_layers[-1], tower_layers, style, towers)

    @classmethod
    def check_schema(cls, schema: Schema) -> None:
        """Check that there is a domain."""
        check_has_domain(cls.__name__, schema)

    def trunk(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the outputs of star and auxiliary network side by side, once per head."""
        x, domain = self.encoder(batch), domains_of(batch, self._domain)  # [B, W], [B]
        beside = self.auxiliary(torch.cat([side_by_side(self.domain_embedding, batch), x], 1))
        grouped = on_host(x) and not torch.compiler.is_compiling()
        star = self._grouped(x, domain) if grouped else self._gathered(x, domain)
        return (torch.cat([star, beside], 1),) * len(self.heads)

    def _grouped(self, x: Tensor, domain: Tensor) -> Tensor:
        """Pass the rows of each domain through its own weights alone. Looks at values: for the host."""
        order = domain.argsort(stable=True)
        sizes = domain.bincount(minlength=len(self._domain.names)).tolist()
        rows = x.index_select(0, order)
        for layer, after in zip(self.layers, self.after, strict=True):
            assert isinstance(layer, StarLinear)
            rows = after(torch.cat(layer.by_group(torch.split(rows, sizes))))
        return rows.index_select(0, order.argsort())

    def _gathered(self, x: Tensor, domain: Tensor) -> Tensor:
        """Pass all rows through the weights of all domains, and take those of its own: a GPU does not wait for it."""
        for layer, after in zip(self.layers, self.after, strict=True):
            products = layer(x)  # [B, D + 1, out]
            x = after(products.gather(1, domain[:, None, None].expand(-1, 1, products.shape[2])).squeeze(1))
        return x

    def shared(self) -> Shared:
        """Return all parameters before the heads; domain-specific ones have a part per domain."""
        last = [layer.weight for layer in self.layers if isinstance(layer, StarLinear)][-1:]
        modules = (self.encoder, self.domain_embedding, self.layers, self.after, self.auxiliary)
        return Shared.of(*modules, last=[*last, *self.auxiliary.last_weights])


class StarLinear(nn.Module):
    """A linear layer with shared weights, and a factor of the weights and a summand of the bias for each domain.

    Shape:
        - input: ``[B, in_features]``
        - output: ``[B, domains + 1, out_features]``: by the weights of each domain, and by the shared ones alone

    Attributes:
        weight: ``[out_features, in_features]``.
        bias: ``[out_features]``.
        domain_weight: ``[domains, out_features, in_features]``, at first 1.
        domain_bias: ``[domains, out_features]``, at first 0.

    Args:
        in_features: The width of the input.
        out_features: The width of the output.
        domains: The number of domains.
        style: The initialisation of the shared weights.
    """

    def __init__(self, in_features: int, out_features: int, domains: int, style: LayerStyle) -> None:
        super().__init__()
        shared = style.linear(in_features, out_features)
        self.weight, self.bias = shared.weight, shared.bias
        self.domain_weight = nn.Parameter(torch.ones(domains, out_features, in_features))
        self.domain_bias = nn.Parameter(torch.zeros(domains, out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Return the products with the weights of each domain, then with the shared ones."""
        weight = torch.cat([self.domain_weight * self.weight, self.weight[None]])  # [D + 1, out, in]
        bias = torch.cat([self.domain_bias + self.bias, self.bias[None]])  # [D + 1, out]
        return torch.unflatten(F.linear(x, weight.flatten(0, 1), bias.flatten()), 1, bias.shape)

    def by_group(self, groups: Sequence[Tensor]) -> list[Tensor]:
        """Return the products of groups of rows, one per domain and one of no domain, with the weights of their own.

        Empty groups pass, too: each of several processes then has a gradient of every weight.
        """
        *of_domains, other = groups
        own = zip(of_domains, self.domain_weight.unbind(), self.domain_bias.unbind(), strict=True)
        products = [F.linear(rows, weight * self.weight, bias + self.bias) for rows, weight, bias in own]
        return [*products, F.linear(other, self.weight, self.bias)]

    def row_origins(self, old: FittedSchema, new: FittedSchema) -> dict[str, RowOrigins]:
        """Return what the weights of each domain start as, given those for an older schema: new ones as drawn."""
        assert old.domain is not None
        found = domain_origins(len(old.domain.categories), len(self.domain_weight))
        return {"domain_weight": found, "domain_bias": found}

    def shared_tensors(self) -> list[SharedTensor]:
        """Return the parameters as shared tensors; those of domains have a part per domain."""
        domains = len(self.domain_weight)
        of_domains = [SharedTensor(p, domains) for p in (self.domain_weight, self.domain_bias)]
        return [SharedTensor(self.weight), SharedTensor(self.bias), *of_domains]
