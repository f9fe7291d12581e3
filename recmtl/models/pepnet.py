"""PEPNet: gates that scale embeddings by the domain, and the layers of each task by further features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recmtl.data import Batch
from recmtl.features import EmbeddingTable, FeatureEncoder
from recmtl.features.pooling import side_by_side
from recmtl.layers import MLP, LayerStyle
from recmtl.models.base import EncoderFactory, RankingModel, Shared, Tower
from recmtl.models.domains import check_has_domain, check_one_network, checked_domain
from recmtl.schema import FittedSchema, IdBlock, Schema


class PEPNet(RankingModel):
    r"""Parameter and embedding personalized network: prior features scale what the network reads and its layers.

    Chang, Zhang, Hui, Leng, Niu, Song and Gai, "PEPNet: Parameter and Embedding Personalized Network for Infusing with
    Personalized Prior Information", KDD 2023, equations 2 to 8. A gate of prior features p beside the features x, which
    get no gradient through it (sg), scales by factors between 0 and 2:

    $$
    G(p, x) = 2\,\sigma\big(W' \operatorname{relu}(W [p, \operatorname{sg}(x)] + b) + b'\big)
    $$

    With E the encoded batch, all tasks read x = G(p_domain, E) ⊗ E (EPNet). Task k has layers f_l and gates G_l of its
    own, whose prior p are the embeddings of `personal` features (PPNet):

    $$
    h^k_l = G^k_l(p, x) \otimes f^k_l(h^k_{l-1}), \qquad h^k_0 = x
    $$

    Shared are the encoder, the embeddings of the priors, and the gate of the domain. Use it where domains or users see
    the same items with other eyes.

    Note:
        Priors have small embeddings of their own, beside those of the encoder. The hidden layers of towers have no
        gates, so that the default tower is one linear layer.

    Shape:
        - output: ``{task: [B]}``, logits

    Args:
        schema: The fitted schema, with a domain; its tasks are the heads and the objectives.
        layers: The widths of the layers of each task's network, each of which has a gate.
        personal: The names of the features that are the prior of these gates, such as user and author: any with
            embeddings. ``None`` takes the domain alone.
        prior_width: The width of the embedding of each prior feature.
        gate_layer: The width of the hidden layer of the gates.
        tower_layers: The hidden layers of the default towers.
        style: Normalisation, activation, dropout and initialisation of the tasks' layers; ensembles are not supported.
        towers: Towers of your own by task, each a callable from D, the width of a view, to a module.
        encoder: Builds the encoder.

    Raises:
        ValueError: The schema has no domain, or one of more than 64 categories; `personal` names a feature without
            embeddings, a width is below 1, `layers` is empty, `style` is an ensemble, or `towers` names no task.

    Example:
        >>> import pandas as pd, recmtl
        >>> features = [recmtl.Categorical("user"), recmtl.Categorical("country")]
        >>> schema = recmtl.Schema(features, [recmtl.Task("ctr", "click")], domain="country")
        >>> rows = pd.DataFrame({"user": ["a", "b", "a"], "country": ["US", "NL", "US"], "click": [1, 0, 1]})
        >>> data = recmtl.prepare(schema, rows, holdout=0)
        >>> model = PEPNet(data.schema, layers=[32, 16], personal=["user"])
        >>> model(next(recmtl.Loader(data.train, 3).epoch()))["ctr"].shape
        torch.Size([3])
    """

    def __init__(
        self,
        schema: FittedSchema,
        layers: Sequence[int] = (256, 128),
        personal: Sequence[str] | None = None,
        prior_width: int = 8,
        gate_layer: int = 64,
        tower_layers: Sequence[int] = (),
        style: LayerStyle = LayerStyle(),
        towers: Mapping[str, Tower] | None = None,
        encoder: EncoderFactory = FeatureEncoder,
    ) -> None:
        domain = checked_domain("PEPNet", schema).block
        check_one_network("PEPNet", style)
        if not layers:
            raise ValueError("`layers` must hold at least one layer, got none")
        for name, value in {"prior_width": prior_width, "gate_layer": gate_layer}.items():
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")
        prior = prior_blocks(schema, [domain.name] if personal is None else personal)
        super().__init__(schema, schema.schema.tasks, encoder)
        self._of_domain = prior_width
        others = [block for block in prior if block.name != domain.name]
        self._of_personal = slice(0 if domain.name in [block.name for block in prior] else prior_width, None)
        self.prior = EmbeddingTable([domain, *others], prior_width)  # the domain is its first feature
        width, of_gates = self.encoder.out_features, len(prior) * prior_width
        self.domain_gate = ScalingGate(prior_width, width, gate_layer, width, style)
        sizes = list(zip([width, *layers], layers, strict=False))
        self.networks = nn.ModuleList(
            nn.ModuleList(MLP(before, [after], style) for before, after in sizes) for _ in self.objectives
        )
        self.gates = nn.ModuleList(
            nn.ModuleList(ScalingGate(of_gates, width, gate_layer, size, style) for size in layers)
            for _ in self.objectives
        )
        self.build_heads(self.objectives, layers[-1], tower_layers, style, towers)

    @classmethod
    def check_schema(cls, schema: Schema) -> None:
        """Check that there is a domain."""
        check_has_domain(cls.__name__, schema)

    def trunk(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the output of each task's network."""
        x, prior = self.encoder(batch), side_by_side(self.prior, batch)  # [B, W], [B, priors · width]
        x = x * self.domain_gate(prior[:, : self._of_domain], x)
        personal, views = prior[:, self._of_personal], []
        for network, gates in zip(self.networks, self.gates, strict=True):
            h = x
            for layer, gate in zip(network, gates, strict=True):  # type: ignore[call-overload]
                h = layer(h) * gate(personal, x)
            views.append(h)
        return tuple(views)

    def shared(self) -> Shared:
        """Return the parameters of the encoder, of the priors' embeddings and of the gate of the domain."""
        return Shared.of(self.encoder, self.prior, self.domain_gate, last=[self.domain_gate.output.weight])


class ScalingGate(nn.Module):
    """A gate of factors between 0 and 2 by prior features and, without a gradient, further ones.

    Shape:
        - prior: ``[B, prior_features]``, x: ``[B, in_features]``
        - output: ``[B, out_features]``

    Args:
        prior_features: The width of the prior features.
        in_features: The width of the further features.
        hidden: The width of the hidden layer.
        out_features: The number of factors.
        style: The initialisation.
    """

    def __init__(
        self, prior_features: int, in_features: int, hidden: int, out_features: int, style: LayerStyle
    ) -> None:
        super().__init__()
        plain = LayerStyle(initialization=style.initialization)
        self.hidden = MLP(prior_features + in_features, [hidden], plain)
        self.output = plain.linear(hidden, out_features)

    def forward(self, prior: Tensor, x: Tensor) -> Tensor:
        """Return the factors."""
        return 2 * torch.sigmoid(self.output(self.hidden(torch.cat([prior, x.detach()], 1))))


def prior_blocks(schema: FittedSchema, names: Sequence[str]) -> list[IdBlock]:
    """Return the columns of ids of the features that are a prior."""
    known = dict.fromkeys(block.feature.name for block in schema.id_blocks)
    wrong = [name for name in names if name not in known]
    if wrong or not names or len(set(names)) != len(names):
        raise ValueError(
            f"`personal` must be a list of features with embeddings ({', '.join(known)}), each once, got {names!r}"
        )
    return [block for block in schema.id_blocks if block.feature.name in names]
