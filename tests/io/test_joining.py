"""How several processes end alike."""

import signal

import pytest
from torch.distributed import HashStore

from recmtl.errors import Terminated
from recmtl.io.joining import _Ending

TERMINATED = Terminated(signal.SIGTERM)


@pytest.mark.parametrize(
    ("other", "own", "said"),
    [
        (KeyboardInterrupt(), TERMINATED, "process 1 of 2: interrupted"),
        (TERMINATED, TERMINATED, "process 1 of 2: ended by SIGTERM"),
        (KeyboardInterrupt(), KeyboardInterrupt(), "None"),
    ],
)
def test_the_signal_for_which_torchrun_ends_a_process_is_named(
    other: KeyboardInterrupt, own: KeyboardInterrupt, said: str
) -> None:
    """torchrun sends SIGTERM to those that are left once one has ended; an interrupt comes to all."""
    store = HashStore()
    first, second = _Ending(store, 0, 2), _Ending(store, 1, 2)
    assert second.tell(other) is None
    found = first.tell(own)
    assert str(found) == said
    if found is not None:
        assert vars(found) == vars(other)
