"""Standard output and error to which any text can be written, also after their reader has gone, and a command's end."""

from __future__ import annotations

import codecs
import errno
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast

READER_GONE = (errno.EPIPE, errno.EIO)  # a closed pipe, a terminal that was hung up
PLAIN_SIGNS = {"·": "-", "–": "-", "−": "-", "…": "...", "→": "->", "×": "x", "²": "2", "±": "+-"}
PLAIN_SIGNS |= {"≥": ">=", "≤": "<=", "†": "+", "‡": "++"}
PLAIN = "recmtl.plain"
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130  # exit statuses


def plain_text(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an encoding lacks: signs by plain ones, others by escapes as in JSON."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(PLAIN_SIGNS.get(sign) or json.dumps(sign)[1:-1] for sign in missing), error.end


codecs.register_error(PLAIN, plain_text)


class Output:
    """A text stream that writes what its encoding lacks in plain characters, and nothing once its reader has gone."""

    def __init__(self, stream: TextIO, may_fail: bool) -> None:
        self._stream = stream
        self._may_fail = may_fail  # whether errors of any kind are ignored, as of progress on a full disk

    def write(self, text: str) -> int:
        """Write a text and return its length."""
        encoding = self._stream.encoding
        written = text.encode(encoding, PLAIN).decode(encoding) if encoding and not text.isascii() else text
        with self._ignored_errors():
            self._stream.write(written)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        with self._ignored_errors():
            self._stream.flush()

    def close_unwritten(self) -> None:
        """Flush the stream; drop what cannot be written, at which Python would fail when it exits."""
        try:
            self.flush()
        except OSError:
            self._drop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _ignored_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._may_fail and error.errno not in READER_GONE:
                raise
            self._drop()

    def _drop(self) -> None:
        """Discard what has been written and all that will be written."""
        with suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())


@contextmanager
def lasting_output() -> Iterator[None]:
    """Within a block, let standard output and error take any text, also if they are closed."""
    with ExitStack() as stack:
        for redirect, stream, may_fail in ((redirect_stdout, sys.stdout, False), (redirect_stderr, sys.stderr, True)):
            if stream is None:  # it was closed before Python started
                stream = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            output = Output(stream, may_fail)
            stack.callback(output.close_unwritten)
            stack.enter_context(redirect(cast(TextIO, output)))
        yield


def end(text: str, status: int) -> int:
    """Print why a command ends, and return its exit status."""
    sys.stderr.write(f"recmtl: {text}\n")
    sys.stderr.flush()
    return status


def interrupted_status(error: KeyboardInterrupt) -> int:
    """Return the exit status of a command that a signal ended: 128 and the number of the signal."""
    return getattr(error, "status", INTERRUPTED)
