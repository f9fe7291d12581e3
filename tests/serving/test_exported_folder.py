"""Exported models predict what their runs predict."""

import dataclasses
import inspect
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import recmtl
from recmtl import features, models
from recmtl.balance import Sum
from recmtl.cli.main import main
from recmtl.features.spline_embeddings import SplineEmbeddings
from recmtl.report.runs import ReportedRun
from recmtl.runs.folder import RunFolder
from recmtl.schema import Binned, Categorical, Funnel, MultiCategorical, Numeric, Schema, Task, Timestamp
from recmtl.serving import export, written
from recmtl.serving.check import network_predictions
from recmtl.serving.graph import program_of
from recmtl.serving.manifest import read_manifest
from recmtl.serving.network import ServedNetwork
from recmtl.serving.probe import probe_columns, probe_table
from recmtl.serving.reader import onnx_network
from recmtl.serving.scorer import torch_network
from recmtl.serving.server.app import create_app
from tests.serving import fuzz
from tests.serving.asgi import ask

POOLINGS = ("mean", "sum", "self_attention", "target_attention")
TASKS = {
    "ctr cvr": [Task("ctr", "click"), Task("cvr", "buy", given="click")],
    "ctr ctcvr": [Task("ctr", "click"), Task("ctcvr", "buy")],
}


def frame(rows: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    click = (rng.random(rows) < 0.4).astype(int)
    histories = ["|".join(map(str, rng.integers(0, 30, n))) for n in rng.integers(0, 5, rows)]
    return pd.DataFrame(
        {
            "item": rng.integers(0, 30, rows).astype(str),
            "country": np.where(rng.random(rows) < 0.1, None, rng.choice(["de", "fr", "it"], rows)),
            "time": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 10**7, rows), "s"),
            "price": np.where(rng.random(rows) < 0.1, np.nan, rng.lognormal(size=rows)),
            "age": rng.integers(18, 80, rows).astype(float),
            "history": histories,
            "click": click,
            "buy": click * (rng.random(rows) < 0.5),
            "spend": rng.normal(20, 5, rows),
        }
    )


def prepared(
    tasks: list[Task], poolings: tuple[str, ...] = ("mean",), thinned: bool = False, **changes: object
) -> recmtl.PreparedData:
    rows = frame()
    lists = []
    for pooling in poolings:
        rows[f"h_{pooling}"] = rows["history"]
        target = "item" if pooling == "target_attention" else None
        lists.append(MultiCategorical(f"h_{pooling}", share_with="item", pooling=pooling, target=target, max_length=3))
    single = [Categorical("item", min_count=8, label_rates=True), Categorical("country"), Timestamp("time", ("hour",))]
    schema = Schema(
        [*single, Numeric("price"), Numeric("age"), Binned("age2", bins=4), *lists], tasks, domain="country"
    )
    rows["age2"] = rows["age"]
    schema = dataclasses.replace(schema, **changes)
    return recmtl.prepare(schema, rows, holdout=0, thinning=recmtl.Thinning(0.5) if thinned else None)


def trainer_of(model: recmtl.RankingModel, balancer: recmtl.Balancer | None = None) -> recmtl.Trainer:
    """A trainer of weights that are not those of the start."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return recmtl.Trainer(model, balancer, optimization=recmtl.Optimization(batch_size=64, balancer_rate=0.01))


MODELS = [getattr(models, name) for name in models.__all__]
MODELS = [
    c for c in MODELS if isinstance(c, type) and issubclass(c, models.RankingModel) and c is not recmtl.RankingModel
]
NUMERIC = (
    SplineEmbeddings,
    features.LinearEmbeddings,
    features.LinearReLUEmbeddings,
    features.PiecewiseLinearEmbeddings,
    features.PeriodicEmbeddings,
    features.PlainNumbers,
)
INTERACTIONS = (None, recmtl.CrossLayers, recmtl.GatedCrossLayers, recmtl.FinalMLP, recmtl.MaskNet)
BALANCERS = (recmtl.RotateOnly, Sum, recmtl.RotoGrad, recmtl.RotoGradNorm)
# Every model once, and with the models in turn every embedding of numbers, interaction, rotation and pooling.
CASES = list(
    zip(
        MODELS,
        itertools.cycle(NUMERIC),
        itertools.cycle(INTERACTIONS),
        itertools.cycle(BALANCERS),
        itertools.cycle(POOLINGS),
    )
)


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "CHECK_ROWS", 300)


QUICK = (models.SharedBottom, models.STAR)  # the others take seconds each
SLOW = [pytest.param(*case, id=case[0].__name__, marks=[] if case[0] in QUICK else pytest.mark.slow) for case in CASES]


@pytest.mark.filterwarnings("ignore:column")  # generated rows lack values that no training row lacks
@pytest.mark.parametrize(("cls", "numeric", "interaction", "balancer", "pooling"), SLOW)
def test_every_model_predicts_the_same_as_onnx(cls, numeric, interaction, balancer, pooling, tmp_path) -> None:
    torch.manual_seed(0)
    tasks = TASKS["ctr ctcvr" if cls is models.AITM else "ctr cvr"]
    thinned = cls in (models.MMOE, models.AITM)
    data = prepared(tasks, (pooling,), thinned, funnel=Funnel("click", "buy"))
    style = recmtl.LayerStyle(ensemble=1 if cls in (models.PEPNet, models.STAR, models.SharedBottom) else 2)

    def encoder(schema: recmtl.FittedSchema) -> recmtl.FeatureEncoder:
        return recmtl.FeatureEncoder(schema, width=4, numeric=numeric, interaction=interaction)

    known = inspect.signature(cls).parameters
    options = {"layers": [8], "tower_layers": [4], "experts": 2, "encoder": encoder}
    model = cls(data.schema, style=style, **{name: value for name, value in options.items() if name in known})
    trainer = trainer_of(model, Sum() if cls is models.SingleTask else balancer())
    found = recmtl.export_model(trainer, tmp_path / "model")
    assert found.difference <= 1e-6
    names = [task["name"] for task in read_manifest(tmp_path / "model")["tasks"]]
    run, network = onnx_network(tmp_path / "model" / "network.onnx", 1), ServedNetwork(trainer.model)
    table = probe_table(data.schema, probe_columns(data.schema, 40, seed=1))
    expected = trainer.predict(table)
    predicted = network_predictions(network, run, export.encoded(data.schema, table))
    assert [*predicted] == names == ["ctr", "cvr", "ctcvr"]
    scored = recmtl.Scorer(tmp_path / "model").score(table)
    for name in names:
        np.testing.assert_allclose(predicted[name], expected[name], rtol=0, atol=1e-6)
        np.testing.assert_allclose(scored[name], expected[name], rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.multiply(scored["ctr"], scored["cvr"]), scored["ctcvr"], rtol=0, atol=1e-6)
    for rows in (0, 1):
        inputs = {n: t.numpy() for n, t in zip(network.inputs, network.example(rows), strict=True)}
        assert [output.shape for output in run(inputs)] == [(rows,)] * 3


@pytest.mark.filterwarnings("ignore:column")
def test_a_regression_and_columns_of_one_kind_alone(tmp_path: Path) -> None:
    """Inputs without columns are left out, and a regression is returned in the units of its label."""
    tasks = [Task("spend", "spend", kind="regression"), Task("ids", "click")]  # a task may be named like an input
    for number, kept in enumerate((["price"], ["item"], ["history"])):
        features_ = [Numeric("price"), Categorical("item"), MultiCategorical("history", max_length=3)]
        schema = Schema([f for f in features_ if f.name in kept], tasks)
        data = recmtl.prepare(schema, frame(), holdout=0)
        trainer = trainer_of(recmtl.SharedBottom(data.schema, layers=[8], tower_layers=[]))
        found = recmtl.export_model(trainer, tmp_path / str(number), format="torch")
        assert found.difference <= 1e-6
        network = ServedNetwork(trainer.model)
        run = torch_network(tmp_path / str(number) / "network.pt2", network.inputs)
        assert network.inputs == ({"price": ("numeric",), "item": ("ids",)}.get(kept[0], ("list_0", "lengths_0")))
        values = run({n: t.numpy() for n, t in zip(network.inputs, network.example(5), strict=True)})[0]
        assert values.shape == (5,)
        assert 10 < values.mean() < 30
        scored = recmtl.Scorer(tmp_path / str(number)).score(frame(9))["spend"]
        np.testing.assert_allclose(scored, trainer.predict(frame(9))["spend"], rtol=1e-6)


STEPS = {
    "chain": (Funnel("click", "cart", "buy"), [Task("clicks", "click"), Task("to_cart", "cart", given="click")]),
    "tree": (
        Funnel(parents={"click": None, "like": "click", "cart": "click", "buy": "cart"}),
        [Task("clicks", "click"), Task("likes", "like"), Task("cart", "cart"), Task("sold", "buy", given="click")],
    ),
}


@pytest.mark.parametrize(
    ("shape", "cls"),
    [
        ("tree", models.SharedBottom),
        pytest.param("chain", models.AITM, marks=pytest.mark.slow),
    ],
)
def test_products_of_rates_agree_wherever_they_stand(
    shape: str, cls: type[recmtl.RankingModel], tmp_path: Path
) -> None:
    """In metrics, files of predictions, answers of a scorer and outputs of the network."""
    funnel, tasks = STEPS[shape]
    rows = frame(200)[["item", "price", "click", "buy"]]
    rows["cart"] = rows["buy"] + (rows["click"] - rows["buy"]) * (np.arange(200) % 2)
    rows["like"] = rows["click"] * (np.arange(200) % 3 == 0)
    data = recmtl.prepare(Schema([Categorical("item"), Numeric("price")], tasks, funnel=funnel), rows, holdout=0)
    torch.manual_seed(0)
    sizes = {"layers": [8], "tower_layers": [4]}
    trainer = trainer_of(cls(data.schema, **{n: v for n, v in sizes.items() if n in inspect.signature(cls).parameters}))
    assert recmtl.export_model(trainer, tmp_path / "model").difference <= 1e-6
    run, network = onnx_network(tmp_path / "model" / "network.onnx", 1), ServedNetwork(trainer.model)
    predictions = trainer.predictor.predict(data.train)
    predictions.write(tmp_path / "predictions.parquet")
    written = pd.read_parquet(tmp_path / "predictions.parquet")
    rates = data.schema.schema.funnel_rates
    names = [task.name for task in data.schema.schema.reported_tasks]
    joint = {step.label: step.joint.name for step in rates}
    places = {
        "frame": trainer.predict(rows),
        "file": written,
        "scorer": recmtl.Scorer(tmp_path / "model").score(rows),
        "network": network_predictions(network, run, data.train),
    }
    for place, found in places.items():
        assert [name for name in found if name in names] == [name for name in names if name in found], place
        for step in rates:
            if step.parent is not None and joint[step.parent] in found and step.joint.name in found:
                product = np.asarray(found[joint[step.parent]]) * np.asarray(found[step.conditional.name])
                np.testing.assert_allclose(found[step.joint.name], product, rtol=0, atol=1e-6, err_msg=place)
        for name in [name for name in names if name in written]:
            np.testing.assert_allclose(found[name], written[name], rtol=0, atol=1e-6, err_msg=f"{place} {name}")
    metrics = trainer.evaluate(data.train)
    assert list(metrics.index) == [name for name in names if name in written]
    for label, name in joint.items():
        path = [step.conditional.name for step in rates if step.label in (label, *funnel.ancestors(label))]
        product = np.prod([written[rate] for rate in path], axis=0)
        happened = rows[label].to_numpy(float)
        entropy = -(happened * np.log(product) + (1 - happened) * np.log(1 - product)).mean()
        assert metrics.loc[name, "logloss"] == pytest.approx(entropy, abs=1e-6)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    frame(300).to_csv(folder / "rows.csv", index=False)
    data = ["--data.train", str(folder / "rows.csv"), "--label", "click", "--drop", "buy", "--drop", "spend"]
    model = ["--model", "SharedBottom", "--model.layers", "[8]", "--model.tower_layers", "[]"]
    silent = ["--trainer.epochs", "1", "--trainer.run.progress", "false"]
    assert main(["train", *data, *model, *silent, "--run", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def exported(run_folder: Path) -> Path:
    out = run_folder.parent / "model"
    assert main(["export", str(run_folder), "--out", str(out), "--format", "torch"]) == 0
    return out


def test_the_command_says_what_it_compared(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run_folder), "--out", str(tmp_path / "model")]) == 0
    first, second = capsys.readouterr().out.splitlines()
    manifest = read_manifest(tmp_path / "model")
    assert first == (
        f"on 300 rows predictions differ from the run's by at most {manifest['measured']['difference']:.1e}"
    )
    assert second == f"{manifest['files']['network.onnx']['bytes']:,} bytes of network · model in {tmp_path / 'model'}"
    assert not re.search(rb"/(home|tmp|work|root|usr)/", (tmp_path / "model" / "network.onnx").read_bytes())
    rows = pd.read_csv(run_folder.parent / "rows.csv", nrows=40, dtype=str, keep_default_na=False)
    rows = rows.drop(columns=["buy", "spend"])
    lines = "\n".join(json.dumps(row) for row in rows.to_dict("records"))
    command = [sys.executable, "-I", "-c", NUMPY_AND_ONNXRUNTIME, str(tmp_path / "model")]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    found = [json.loads(line)["click"] for line in done.stdout.splitlines()]
    expected = recmtl.load_run(run_folder).predict(rows)["click"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


# Runs the reader of a folder where nothing but NumPy, onnxruntime and the standard library can be imported.
NUMPY_AND_ONNXRUNTIME = """
import importlib.machinery, runpy, sys
allowed = {"numpy", "onnxruntime", *sys.stdlib_module_names}
class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return super().find_spec(name, path, target) if name.partition(".")[0] in allowed else None
sys.meta_path[:] = [f for f in sys.meta_path if f is not importlib.machinery.PathFinder] + [Finder]
sys.argv = [sys.argv[1] + "/recmtl_model.py", sys.argv[1]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Own(recmtl.RankingModel):
    """A model whose trunk does something to the view."""

    def __init__(self, schema: recmtl.FittedSchema, change: Callable[[Tensor, recmtl.Batch], Tensor]) -> None:
        super().__init__(schema)
        self.change = change
        self.bottom = recmtl.MLP(self.encoder.out_features, [8])
        self.build_heads(self.objectives, 8)

    def trunk(self, batch: recmtl.Batch) -> tuple[Tensor, ...]:
        return (self.change(self.bottom(self.encoder(batch)), batch),) * len(self.heads)

    def shared(self) -> recmtl.Shared:
        return recmtl.Shared.of(self.encoder, self.bottom)


OWN = {
    "branch": (lambda x, _: x * 2 if x.sum() > 0 else x, "torch", r"\(test_.*, line \d+\): its code depends on values"),
    "length": (lambda x, batch: x.view(len(batch), -1), "torch", ": its code fixes the number of rows, as by `len"),
    "operator": (
        lambda x, _: torch.linalg.svd(x[:, :, None])[1] * x,
        "onnx",
        "no operator for `_linalg_svd`: try `--f",
    ),
    "sine": (lambda x, _: x.sin(), "torch", ""),
}


@pytest.mark.parametrize("name", OWN)
def test_a_model_of_ones_own_is_exported_or_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    change, form, said = OWN[name]
    schema = Schema([Numeric("price")], [Task("ctr", "click")])
    model = Own(recmtl.prepare(schema, frame(), holdout=0).schema, change)
    bf16 = recmtl.Optimization(precision="bf16")  # which training takes; what is exported is compared in fp32
    trainer = recmtl.Trainer(model, optimization=bf16)
    if not said:
        assert recmtl.export_model(trainer, tmp_path / "model", format=form).difference <= 1e-6
        return
    with pytest.raises(recmtl.RunError, match=f"^the model Own cannot be exported by .*{said}") as caught:
        recmtl.export_model(trainer, tmp_path / "model", format=form)
    assert "\n" not in str(caught.value)
    assert [*tmp_path.iterdir()] == []


def test_a_flipped_bit_is_found_in_every_file(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "copy")
    files = read_manifest(folder)["files"]
    assert set(files) == {path.name for path in folder.iterdir()} - {"manifest.json"}
    for name in files:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        with pytest.raises(recmtl.DataError, match=f"{name}' is damaged"):
            read_manifest(folder)
        (folder / name).unlink()
        with pytest.raises(recmtl.DataError, match=f"lacks the file {name!r}"):
            read_manifest(folder)
        (folder / name).write_bytes(content)
    manifest = (folder / "manifest.json").read_text()
    for content, said in (
        ("{", "is damaged"),
        (manifest.replace('"name": "click"', '"name": "clack"'), "is damaged"),
        ("{}", "is no exported model"),
        ('{"layout": 2, "files": {}}', "layout 2, where this version reads 1"),
    ):
        (folder / "manifest.json").write_text(content)
        with pytest.raises(recmtl.DataError, match=said):
            read_manifest(folder)


def test_bad_input_is_one_sentence(
    run_folder: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(recmtl.DataError, match=r"'.*model' exists already: choose another folder or remove it"):
        recmtl.export_model(run_folder, exported)
    with pytest.raises(recmtl.DataError, match="`format` must be one of onnx, torch, got 'tf'"):
        recmtl.export_model(run_folder, tmp_path / "a", format="tf")  # type: ignore[arg-type]
    with pytest.raises(recmtl.DataError, match="is a run folder, expected an exported model: write one with `recmtl"):
        read_manifest(run_folder)
    with pytest.raises(recmtl.DataError, match="does not exist: give the folder of an exported model"):
        read_manifest(tmp_path / "nowhere")
    for read in (
        partial(recmtl.export_model, out=tmp_path / "a"),
        partial(recmtl.continue_run, train=frame(), folder=tmp_path / "a"),
        recmtl.load_run,
        ReportedRun.open,
        lambda folder: RunFolder(folder).load_checkpoint("best"),
    ):
        said = r"model' is an exported model, expected a run folder: `recmtl serve` and `recmtl\.Scorer` read it"
        with pytest.raises((recmtl.RunError, recmtl.DataError), match=said):
            read(exported)
    unfinished = shutil.copytree(run_folder, tmp_path / "unfinished")
    (unfinished / "metrics.json").unlink()
    with pytest.raises(recmtl.RunError, match="holds an unfinished run"):
        recmtl.export_model(unfinished, tmp_path / "a")
    (unfinished / "recipe.yaml").unlink()
    with pytest.raises(recmtl.RunError, match="recipe"):
        recmtl.export_model(unfinished, tmp_path / "a")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(recmtl.DataError, match=r"onnxscript must be installed: `pip install 'recmtl\[onnx\]'`"):
        recmtl.export_model(run_folder, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_network_that_predicts_something_else_is_removed(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = recmtl.load_run(run_folder)

    def wrong(network: ServedNetwork) -> torch.export.ExportedProgram:
        with torch.no_grad():
            network.model.heads["click"].bias += 1e-4
        return program_of(network)

    monkeypatch.setattr(written, "program_of", wrong)
    with pytest.raises(
        recmtl.RunError, match=r"was removed: on 300 generated rows it differs from the run by 2.\de-05"
    ):
        recmtl.export_model(trainer, tmp_path / "model", format="torch")
    assert [*tmp_path.iterdir()] == []


def test_an_exported_model_is_served_and_a_half_copied_one_is_not(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "served")
    app = create_app(folder)
    probe = json.loads((folder / "probe.json").read_text())
    answer = ask(app, {"rows": probe["rows"]}).json
    assert {task: pytest.approx(values, abs=1e-6) for task, values in probe["expected"].items()} == answer["tasks"]
    bad = ask(app, {"rows": [{**probe["rows"][0], "colour": "red"}]})
    assert (bad.status, bad.json["field"]) == (422, "colour")
    cheap = ask(app, {"rows": [*probe["rows"][:2], {**probe["rows"][2], "price": "cheap"}]})
    assert cheap.json == {"error": "column 'price': 'cheap' is not a number", "field": "price", "row": 2}
    for statuses in fuzz.fuzz_model(folder, 200):
        assert {200, 400, 422} <= set(statuses) <= {200, 400, 413, 415, 422}
    (folder / "encoder.json").unlink()
    with pytest.raises(recmtl.DataError, match=r"lacks the file 'encoder\.json'"):
        create_app(folder)


def test_a_run_that_rounds_more_than_usual_is_exported(tmp_path: Path) -> None:
    """The limit follows what fp32 costs the run itself, here by large numbers that cancel out in the logit."""
    torch.manual_seed(0)
    rows = frame()
    rows["price"] = 5000 + rows["age"] / 100
    schema = Schema([Numeric("price", transform="none")], [Task("ctr", "click")])
    data = recmtl.prepare(schema, rows, holdout=0)

    def encoder(fitted: recmtl.FittedSchema) -> recmtl.FeatureEncoder:
        return recmtl.FeatureEncoder(fitted, numeric=recmtl.PlainNumbers)

    model = recmtl.SharedBottom(data.schema, layers=[32], tower_layers=[], encoder=encoder)
    trainer = recmtl.Trainer(model, recmtl.RotateOnly())
    with torch.no_grad():
        for parameter in model.fork.parameters():
            parameter.add_(torch.randn_like(parameter))  # a rotation that is folded
        head = model.heads["ctr"]
        head.bias -= model.eval()(next(recmtl.Loader(data.train, 400).epoch()))["ctr"].median()
    found = recmtl.export_model(trainer, tmp_path / "model", format="torch")
    assert 1e-6 < found.difference < 1e-3


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_tasks_may_have_any_name(tmp_path: Path, form: export.Format) -> None:
    """The code of a graph ends at a quote, and torch splits what it says of modules at commas."""
    tasks = [recmtl.Task(name, label) for name, label in (('li"ke,=', "like"), ("a/b '", "share"))]
    rows = pd.DataFrame({"item": list("abab") * 3, "like": [0, 1, 1] * 4, "share": [0, 1, 0] * 4})
    data = recmtl.prepare(recmtl.Schema([recmtl.Categorical("item")], tasks), rows, holdout=0)
    run = recmtl.RunConfig(progress=False, device="cpu")
    trainer = recmtl.Trainer(recmtl.SharedBottom(data.schema, layers=[4]), epochs=1, run=run).fit(data.train)
    recmtl.export_model(trainer, tmp_path / "out", form)
    found, expected = recmtl.Scorer(tmp_path / "out").score(rows[["item"]]), trainer.predict(rows)
    for task in tasks:
        np.testing.assert_allclose(found[task.name], expected[task.name], atol=1e-6)
