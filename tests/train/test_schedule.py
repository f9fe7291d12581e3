import pytest

from recmtl.train.optimizers import learning_rate_factor


def test_constant_linear_cosine() -> None:
    assert [learning_rate_factor("constant", 0, 10)(s) for s in (0, 5, 10)] == [1, 1, 1]
    assert [learning_rate_factor("linear", 0, 10)(s) for s in (0, 5, 10, 12)] == [1, 0.5, 0, 0]
    assert [learning_rate_factor("cosine", 0, 10)(s) for s in (0, 5, 10)] == pytest.approx([1, 0.5, 0])


def test_warmup_rises_and_joins_the_schedule_without_a_jump() -> None:
    factor = learning_rate_factor("linear", 0.3, 10)
    assert [factor(s) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert factor(10) == 0
