"""Pruning of trials by Optuna."""

import optuna
import pytest
import torch

import recmtl


def fit(trial: optuna.Trial, data: recmtl.PreparedData, rate: float, pruning: recmtl.OptunaPruning) -> recmtl.Trainer:
    torch.manual_seed(0)
    run = recmtl.RunConfig(progress=False, device="cpu")
    optimization = recmtl.Optimization(batch_size=256, optimizer=lambda p: torch.optim.SGD(p, lr=rate))
    model = recmtl.SharedBottom(data.schema, layers=[8])
    stopping = recmtl.EarlyStopping("logloss", patience=None, evaluations=2)
    trainer = recmtl.Trainer(
        model, epochs=2, optimization=optimization, stopping=stopping, run=run, callbacks=[pruning]
    )
    return trainer.fit(data.train, data.valid)


def test_a_trial_that_falls_behind_is_pruned(aliexpress: recmtl.PreparedData) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="minimize", pruner=optuna.pruners.MedianPruner(1, n_warmup_steps=1))
    for rate, pruned in ((0.5, False), (1e-6, True)):
        trial = study.ask()
        pruning = recmtl.OptunaPruning(trial)
        trainer = fit(trial, aliexpress, rate, pruning)
        values = [r["valid"] for r in trainer.result.records if "valid" in r]
        measured = [(v["ctr"]["logloss"] + v["ctcvr"]["logloss"]) / 2 for v in values]
        study.tell(trial, state=optuna.trial.TrialState.PRUNED) if pruning.pruned else study.tell(trial, measured[-1])
        assert pruning.pruned == pruned
        reported = study.trials[-1].intermediate_values
        assert reported == {step: pytest.approx(value) for step, value in enumerate(measured, 1)}
        assert len(measured) == (2 if pruned else 4)  # the first evaluation warms up
        assert (trainer.result.stopped or "").startswith("pruned after evaluation 2") == pruned


def test_an_undefined_value_is_not_reported(context) -> None:
    trial = optuna.create_study().ask()
    callback = recmtl.OptunaPruning(trial)
    callback.on_evaluation(context(value=None), {})
    callback.on_evaluation(context(value=0.5), {})
    resumed = recmtl.OptunaPruning(trial)
    resumed.load_state_dict(callback.state_dict())
    resumed.on_fit_start(context(step=4))
    resumed.on_evaluation(context(value=0.25), {})
    assert trial.storage.get_trial(trial._trial_id).intermediate_values == {2: 0.5, 3: 0.25}
