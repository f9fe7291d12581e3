"""Where files are: on disk, or in an object store that pyarrow speaks to."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as fs

URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
BUFFER_BYTES = 1 << 20  # read at once: each read from an object store is a request
COMPRESSIONS = (".gz", ".zst", ".bz2")


@dataclass(frozen=True)
class Location:
    """A file or folder, or a pattern of files, in a filesystem.

    Args:
        path: Its path in the filesystem.
        filesystem: The filesystem.
        prefix: What stands before the path in its name.
    """

    path: str
    filesystem: fs.FileSystem
    prefix: str = ""

    @classmethod
    def of(cls, place: str | Path) -> Location:
        """Locate a path or URI (``s3://``, ``gs://``, ``hdfs://``, ``file://``).

        Args:
            place: The path or URI; options such as ``region`` or ``endpoint_override`` stand in its query, as pyarrow
                has them.

        Raises:
            ValueError: The URI names no filesystem, or an option that it does not have.
        """
        if isinstance(place, Path) or not URI.match(place):
            return cls(str(Path(place)), fs.LocalFileSystem())
        parts = urlsplit(place, allow_fragments=False)
        server = f"{parts.scheme}://{parts.netloc}/" + (f"?{parts.query}" if parts.query else "")
        try:
            filesystem, root = fs.FileSystem.from_uri(server)
        except (OSError, ValueError) as error:  # may show a password
            raise ValueError(str(error).replace(server, public_name(place))) from None
        root = root.strip("/")
        prefix = f"{parts.scheme}://" + ("" if root else parts.netloc.rpartition("@")[2])
        return cls(f"{root}/{unquote(parts.path).strip('/')}".rstrip("/"), filesystem, prefix)

    def at(self, path: str) -> Location:
        """Give another path of the same filesystem."""
        return dataclasses.replace(self, path=path)

    @property
    def name(self) -> str:
        """The path or URI, without options and credentials."""
        return self.prefix + self.path

    @property
    def on_disk(self) -> bool:
        """Whether the path is one of this machine."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    @property
    def suffixes(self) -> list[str]:
        """All suffixes of the file's name."""
        return PurePosixPath(self.path).suffixes

    @property
    def suffix(self) -> str:
        """The file's suffix without that of its compression; ``.csv`` where it has none."""
        return next((s for s in reversed(self.suffixes) if s not in COMPRESSIONS), ".csv")

    def stream(self, compression: str | None = "detect") -> pa.NativeFile:
        """Open the file to be read from its start, decompressed as its suffix says."""
        return self.filesystem.open_input_stream(self.path, compression=compression, buffer_size=BUFFER_BYTES)

    def file(self) -> pa.NativeFile:
        """Open the file to be read anywhere; on disk it is mapped into memory."""
        return pa.memory_map(self.path) if self.on_disk else self.filesystem.open_input_file(self.path)


def public_name(place: str | Path) -> str:
    """Give a path or URI as it may be shown: without credentials and options."""
    if isinstance(place, Path) or not URI.match(place):
        return str(place)
    parts = urlsplit(place, allow_fragments=False)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
