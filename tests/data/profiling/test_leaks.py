import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from recmtl.data.profiling.leaks import Leak, find_leaks, has_both_classes

ROWS = 4000


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def click(rng, rate=0.1):
    return (rng.random(ROWS) < rate).astype(float)


def found(columns, **labels):
    return {
        (leak.column, leak.label): leak
        for leak in find_leaks(columns, labels, np.arange(len(next(iter(labels.values())))))
    }


def test_a_copy_with_noise_is_found_as_number_and_as_category(rng):
    label = click(rng)
    noisy = np.where(rng.random(ROWS) < 0.01, 1 - label, label)
    columns = {"number": noisy, "category": noisy.astype(np.int64), "negated": -noisy, "honest": rng.normal(size=ROWS)}
    leaks = found(columns, click=label)
    assert {column for column, _ in leaks} == {"number", "category", "negated"}
    for leak in leaks.values():
        assert leak.auc == pytest.approx(roc_auc_score(label, noisy), abs=0.01)
        assert not leak.same


def test_an_honest_strong_feature_is_not_found(rng):
    label = click(rng)
    strong = label * 1.19 + rng.normal(size=ROWS)
    assert roc_auc_score(label, strong) == pytest.approx(0.8, abs=0.02)
    assert not found({"number": strong, "category": np.digitize(strong, np.linspace(-3, 3, 50))}, click=label)


def test_a_recoded_label(rng):
    label = click(rng)
    columns = {
        "words": np.where(label == 1, 7, 3),
        "doubled": 2 * label,
        "finer": np.where(label == 1, 5, np.arange(ROWS) % 4),
    }
    leaks = found(columns, click=label)
    assert {column: leak.same for (column, _), leak in leaks.items()} == {
        "words": True,
        "doubled": True,
        "finer": False,
    }
    assert all(leak.auc == 1 for leak in leaks.values())
    assert (
        str(leaks["words", "click"]) == "column 'words' is label 'click' in other words: is it known before 'click' is?"
    )
    assert str(Leak("x", "click", 0.9991, False)) == (
        "column 'x' alone separates label 'click' with AUC 0.999: is it known before 'click' is?"
    )


def test_a_column_filled_only_after_the_click_is_found(rng):
    """The time on the page is missing without a click; its value carries no information."""
    label = click(rng)
    stay = np.where(label == 1, rng.exponential(size=ROWS), np.nan)
    ids = np.where(label == 1, np.arange(ROWS) + 1, 0)
    assert set(found({"stay": stay, "click_id": ids}, click=label)) == {("stay", "click"), ("click_id", "click")}


def test_present_values_that_separate_are_found_though_many_are_missing(rng):
    label = click(rng)
    score = np.where(rng.random(ROWS) < 0.5, label + rng.random(ROWS), np.nan)
    assert found({"score": score}, click=label)["score", "click"].auc == 1


def test_ids_that_never_repeat_are_no_leak(rng):
    label = click(rng)
    assert not found({"id": rng.permutation(ROWS), "few": rng.integers(0, 1000, ROWS)}, click=label)


def test_missing_labels_do_not_count(rng):
    label = click(rng)
    half = np.where(np.arange(ROWS) % 2 == 0, label, np.nan)
    column = np.where(np.isnan(half), 1 - label, label)
    assert set(found({"x": column}, half=half, whole=label)) == {("x", "half")}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), positives=st.integers(10, 40), categories=st.sampled_from([2, 5, 60, 800]))
def test_noise_is_never_found_however_rare_the_label(seed, positives, categories):
    rng = np.random.default_rng(seed)
    label = np.zeros(1500)
    label[rng.choice(1500, positives, replace=False)] = 1
    assert has_both_classes(label, np.arange(1500))
    assert not found({"n": rng.normal(size=1500), "c": rng.integers(0, categories, 1500)}, y=label)


@pytest.mark.parametrize(("ones", "zeros", "enough"), [(10, 10, True), (9, 100, False), (100, 9, False)])
def test_both_classes_need_rows(ones, zeros, enough):
    label = np.array([1.0] * ones + [0.0] * zeros + [np.nan] * 50)
    assert has_both_classes(label, np.arange(len(label))) == enough
    assert not has_both_classes(label, np.arange(len(label)) // 2 % 5)


def test_rows_of_a_group_are_no_evidence(rng):
    """Fifteen searches with clicks in three: any column that is constant in a search separates them."""
    groups = np.repeat(np.arange(15), 20)
    label = (groups >= 12).astype(float)
    assert not has_both_classes(label, groups)
    assert has_both_classes(label, np.arange(len(label)))  # what rows alone would say
    many = np.repeat(np.arange(400), 3)
    leaks = list(find_leaks({"user": many}, {"click": (rng.random(400) < 0.5).astype(float)[many]}, many))
    assert not leaks  # a category of each group: the others' folds know nothing of it
