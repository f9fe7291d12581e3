"""What a worker process answers."""

import pickle

import pytest

from recmtl.errors import BadValueError
from recmtl.io.worker import answer


class UnsendableError(Exception):
    """One that a pickle does not restore."""

    def __init__(self, what: str, number: int) -> None:
        super().__init__(f"{what} {number}")


def test_errors_are_sent_with_the_lines_that_raised_them() -> None:
    def fail(error: Exception) -> None:
        raise error

    for error, kind, text in (
        (KeyError("a"), KeyError, "'a'"),
        (UnsendableError("part", 3), RuntimeError, "UnsendableError: part 3"),
    ):
        good, found = pickle.loads(pickle.dumps(answer(fail, error)))
        assert not good
        assert isinstance(found, kind)
        assert str(found) == text
        assert "in fail" in found.__notes__[0]
    good, found = pickle.loads(pickle.dumps(answer(fail, BadValueError(3, "price", "x", "a number"))))
    with pytest.raises(BadValueError, match="row 3, column 'price': 'x' is not a number"):
        raise found
    assert not hasattr(found, "__notes__")
