"""A trainer in code of one's own: modes of torch, models that it cannot train, threads, and used balancers."""

import gc
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import pytest
import torch

import recmtl
from recmtl.train.options import Optimization, RunConfig


def trainer(data: recmtl.PreparedData, balancer: recmtl.Balancer | None = None, **options: object) -> recmtl.Trainer:
    return recmtl.Trainer(model(data), balancer, **(SMALL | options))


def model(data: recmtl.PreparedData) -> recmtl.RankingModel:
    torch.manual_seed(0)
    style = recmtl.LayerStyle(normalization="batch", dropout=0.5)
    return recmtl.SharedBottom(data.schema, layers=[16, 8], style=style)


SMALL = {
    "epochs": 1,
    "optimization": Optimization(batch_size=512),
    "run": RunConfig(progress=False, device="cpu"),
}


@pytest.mark.parametrize(
    "around",
    [torch.no_grad, torch.inference_mode, partial(torch.autocast, "cpu", torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_modes_of_torch_around_fit_change_nothing(
    aliexpress: recmtl.PreparedData, around: Callable[[], AbstractContextManager[object]]
) -> None:
    expected, found = trainer(aliexpress).fit(aliexpress.train), trainer(aliexpress)
    with around():
        found.fit(aliexpress.train)
    weights = zip(expected.model.parameters(), found.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


def test_threads_predict_at_once_in_evaluation_mode(
    aliexpress: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first to end put the model back into training mode, so that the others dropped activations."""
    fitted, modes = trainer(aliexpress), []
    fitted.model.train()
    inside, ended = threading.Event(), threading.Event()
    first = threading.current_thread()
    plain = type(fitted.model).predictions

    def predictions(self: recmtl.RankingModel, *arguments: object, **options: object) -> dict[str, torch.Tensor]:
        if threading.current_thread() is not first:
            inside.set()
            assert ended.wait(10)
        modes.append(self.training)
        return plain(self, *arguments, **options)

    monkeypatch.setattr(type(fitted.model), "predictions", predictions)
    precision = torch.backends.mkldnn.matmul.fp32_precision
    other = threading.Thread(target=lambda: fitted.predict(aliexpress.test))

    def begin(*_: object) -> None:
        if not other.ident:
            other.start()
            assert inside.wait(10)

    handle = fitted.model.register_forward_pre_hook(begin)
    fitted.predict(aliexpress.test)
    handle.remove()
    ended.set()
    other.join()
    assert modes == [False] * 2
    assert fitted.model.training
    assert torch.backends.mkldnn.matmul.fp32_precision == precision


class Elsewhere(recmtl.Callback):
    """Calls a function in another thread while a model trains, and keeps its error."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function, self.error = function, ""

    def on_record(self, context: recmtl.TrainingContext, record: object) -> None:
        thread = threading.Thread(target=self._call)
        thread.start()
        thread.join()

    def _call(self) -> None:
        try:
            self.function()
        except recmtl.RunError as error:
            self.error = str(error)


def test_a_model_in_training_is_refused_to_other_threads(aliexpress: recmtl.PreparedData) -> None:
    built: list[recmtl.Trainer] = []
    predicting = Elsewhere(lambda: built[0].predict(aliexpress.test))
    training = Elsewhere(lambda: built[0].fit(aliexpress.train))
    built.append(trainer(aliexpress, callbacks=[predicting, training]))
    built[0].fit(aliexpress.train, aliexpress.valid)
    assert predicting.error.startswith("another thread is training the model: predict with a copy")
    assert training.error.startswith("the model is being trained already: train a copy")
    built[0].predict(aliexpress.test)


def test_weights_in_half_precision_are_refused(aliexpress: recmtl.PreparedData) -> None:
    with pytest.raises(ValueError, match=r"the weights of the model are in torch\.bfloat16: keep them in float32"):
        recmtl.Trainer(model(aliexpress).bfloat16(), **SMALL)
    cast_later = trainer(aliexpress)
    cast_later.model.half()
    with pytest.raises(ValueError, match=r"in torch\.float16"):
        cast_later.predict(aliexpress.test)
    with pytest.raises(ValueError, match=r"in torch\.float16"):
        cast_later.fit(aliexpress.train)


def test_what_is_no_model_is_refused(aliexpress: recmtl.PreparedData) -> None:
    with pytest.raises(ValueError, match=r"got OptimizedModule: compile it in place by `model\.compile\(\)`"):
        recmtl.Trainer(torch.compile(model(aliexpress), backend="eager"))
    with pytest.raises(ValueError, match="got the class MMOE"):
        recmtl.Trainer(recmtl.MMOE)
    with torch.inference_mode():
        made = model(aliexpress)
    with pytest.raises(ValueError, match=r"made in `torch\.inference_mode`"):
        recmtl.Trainer(made)


def test_a_model_without_a_weight_to_train_is_refused(aliexpress: recmtl.PreparedData) -> None:
    frozen = trainer(aliexpress)
    frozen.model.requires_grad_(False)
    with pytest.raises(recmtl.RunError, match="no weight of the model requires a gradient"):
        frozen.fit(aliexpress.train)


def test_a_balancer_that_trained_a_model_takes_no_other(aliexpress: recmtl.PreparedData) -> None:
    """Its moving averages and rotations are those of the first model, also when nothing else holds that any more."""
    balancer = recmtl.MetaBalance()
    trainer(aliexpress, balancer)  # not yet trained
    gc.collect()
    trainer(aliexpress, balancer).fit(aliexpress.train)
    gc.collect()
    with pytest.raises(ValueError, match="this MetaBalance balances another model, whose state it holds"):
        trainer(aliexpress, balancer)
