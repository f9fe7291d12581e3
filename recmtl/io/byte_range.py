"""A range of the bytes of a file, which is read like a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from recmtl.io.location import Location

READ_BYTES = 1 << 24  # at a time, where lines are counted


@dataclass(frozen=True)
class ByteRange:
    """The bytes of a file from `start` to before `end`; they begin after a line break, or at the start of the file."""

    location: Location
    start: int
    end: int

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.location.name

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self.end - self.start

    @property
    def stream(self) -> Callable[[], pa.NativeFile]:
        """Open the range for reading from its start; on disk it is mapped into memory."""
        return lambda: pa.BufferReader(self.read())

    def read(self) -> pa.Buffer:
        """Return the bytes."""
        return self._bytes(self.start, self.end)

    @contextmanager
    def reader(self) -> Iterator[Callable[[int, int], bytes]]:
        """Open the range, and yield what returns its bytes from one place of the file to before another.

        On disk it copies them, which takes less time than mapping the pages of the file one by one.
        """
        if self.location.on_disk:
            with pa.OSFile(self.location.path) as file:
                yield lambda start, end: file.read_at(end - start, start)
        else:
            text = self.read()
            yield lambda start, end: text[start - self.start : end - self.start].to_pybytes()

    def around(self, start: int, end: int) -> bytes:
        """Return other bytes of the file, as far as there are any."""
        return bytes(self._bytes(start, end))

    def _bytes(self, start: int, end: int) -> pa.Buffer:
        with self.location.file() as file:
            file.seek(min(start, file.size()))
            return file.read_buffer(end - start)

    @cached_property
    def lines_before(self) -> int:
        """The number of lines of the file before the range; they are counted when an error names one."""
        return sum(text.count(b"\n") + text.count(b"\r") - text.count(b"\r\n") for text in self._before())

    def _before(self) -> Iterator[bytes]:
        """Yield the bytes before the range in blocks, none of which ends within a line break of two characters."""
        with self.location.file() as file:
            left, rest = self.start, b""
            while left:
                block = rest + file.read(min(left, READ_BYTES))
                left -= len(block) - len(rest)
                rest = b"\r" if block.endswith(b"\r") and left else b""
                yield block.removesuffix(rest)
