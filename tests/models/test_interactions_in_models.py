"""Interactions are part of a model in whatever is done with it: recipes, runs, folding and export."""

from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import recmtl
from recmtl.cli.main import main
from recmtl.data import Batch, Loader
from recmtl.layers import CrossLayers, FinalMLP, GatedCrossLayers, Interaction, MaskNet


class AllOfThem(Interaction):
    """An interaction of a user's own, from those of the package."""

    def __init__(self, in_features: int) -> None:
        blocks = [build(in_features) for build in (CrossLayers, GatedCrossLayers, FinalMLP, MaskNet)]
        super().__init__(in_features, sum(block.out_features for block in blocks))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([block(x) for block in self.blocks], 1)


class Served(nn.Module):
    def __init__(self, model: recmtl.RankingModel) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, ids: Tensor, numeric: Tensor) -> dict[str, Tensor]:
        return self.model(Batch(ids, numeric, labels=numeric[:, :0]))


def test_folds_and_exports_with_any_number_of_rows(aliexpress: recmtl.PreparedData) -> None:
    torch.manual_seed(0)
    encoder = partial(recmtl.FeatureEncoder, width=2, interaction=AllOfThem)
    model = recmtl.SharedBottom(aliexpress.schema, layers=[8], tower_layers=[4], encoder=encoder).double()
    recmtl.Trainer(model, recmtl.RotateOnly(), run=recmtl.RunConfig(progress=False, device="cpu"))
    batch = next(Loader(aliexpress.train, 16).epoch())
    inputs, rows = (batch.ids.clone(), batch.numeric.double()), {0: torch.export.Dim("rows")}
    folded = Served(model.fold())
    program = torch.export.export(folded, inputs, dynamic_shapes={"ids": rows, "numeric": rows}).module()
    for count in (1, 7, 16):
        expected = Served(model)(inputs[0][:count], inputs[1][:count])
        for name, logit in program(inputs[0][:count], inputs[1][:count]).items():
            torch.testing.assert_close(logit, expected[name], rtol=1e-10, atol=1e-12)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments that train on planted interactions."""
    folder = tmp_path_factory.mktemp("planted")
    recmtl.plant(folder, "interactions", rows=400)
    files = [f"--data.{split}={folder / split}.csv" for split in ("train", "valid", "test")]
    return ["train", f"--data.card={folder / 'card.yaml'}", *files, "--trainer.epochs=1", "--trainer.run.device=cpu"]


def test_from_the_command_line_to_a_run_that_is_loaded(planted: list[str], tmp_path: Path) -> None:
    options = ["--model.encoder.interaction", "CrossLayers", "--model.encoder.interaction.layers", "3"]
    assert main([*planted, *options, "--model.encoder.interaction.rank", "4", "--run", str(tmp_path / "run")]) == 0
    trainer = recmtl.load_run(tmp_path / "run")
    interaction = trainer.model.encoder.interaction
    assert isinstance(interaction, CrossLayers)
    assert [tuple(p.shape) for p in interaction.parameters()][:2] == [
        (4, interaction.in_features),
        (interaction.in_features, 4),
    ]
    assert len(interaction.maps) == 3
    test = next(argument.partition("=")[2] for argument in planted if argument.startswith("--data.test"))
    written = pd.read_parquet(tmp_path / "run" / "predictions" / "test.parquet")
    for task in ("ctr", "like"):
        torch.testing.assert_close(
            *(torch.tensor(frame[task].to_numpy()) for frame in (trainer.predict(test), written))
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["Nope"],
            "there is no interaction 'Nope': give one of CrossLayers, FinalMLP, GatedCrossLayers, MaskNet, or the "
            "import path of your own",
        ),
        (["CrossLayers", ".layers", "0"], "`layers` must be at least 1, got 0"),
        (["CrossLayers", ".rank", "900"], "`rank` must be from 1 to"),
        (["MaskNet", ".rank", "3"], "MaskNet has no option `--model.encoder.interaction.rank`: it has "),
        (["torch.nn.Identity"], "'torch.nn.Identity' is no interaction: it must be a subclass of Interaction"),
    ],
)
def test_wrong_options_are_refused(
    options: list[str], message: str, planted: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *rest = options
    key = "--model.encoder.interaction"
    named = [key, first, *(part if index % 2 else key + part for index, part in enumerate(rest))]
    assert main([*planted, *named, "--run", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"recmtl: {message}")
