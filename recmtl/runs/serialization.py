"""Checkpoint files: they cannot execute code, and they say whether they are whole."""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recmtl.errors import OutOfMemoryError, RunError
from recmtl.io.files import new_file
from recmtl.io.memory import explain_oom

SEAL = 64  # letters of a SHA-256
MOST_VALUES = 1 << 20  # in a state, those that stand in it twice counted twice
# What torch makes of a file that is no checkpoint, or asks for more than there is.
FAULTS = (
    OSError,
    RuntimeError,
    EOFError,
    MemoryError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state to a file that appears whole or not at all.

    Raises:
        RunError: The state holds what a checkpoint that cannot execute code may not hold, or cannot be written.
    """
    with new_file(path) as file:
        try:
            with explain_oom(f"the checkpoint {path}"):
                torch.save(state, file)
        except RuntimeError as error:  # what torch makes of a failed write
            raise RunError(f"the checkpoint {path} cannot be written: is the disk full?") from error
        try:
            torch.load(file, map_location="cpu", weights_only=True, mmap=True)  # reads no tensor
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            raise RunError(
                f"the state of the training holds {found[1] if found else 'an object'}, which no checkpoint can hold: "
                "model, balancer and optimizer may keep tensors, numbers, text, and lists and dicts of these"
            ) from error
        seal(file)


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read the state in a file; it cannot execute code.

    Raises:
        FileNotFoundError: There is no such file.
        RunError: It is damaged.
    """
    try:
        with explain_oom(f"the checkpoint {path}"), warnings.catch_warnings():
            if not is_sealed(path):
                raise ValueError("its content is not what its checksum says")
            check_members(path)
            warnings.simplefilter("ignore")  # about what turns out to be damaged
            state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        check_state(state, device)
    except (FileNotFoundError, OutOfMemoryError):
        raise
    except FAULTS as error:
        reason = " ".join(str(error).partition(". ")[0].partition("\n")[0].split()) or type(error).__name__
        raise RunError(f"the checkpoint {path} is damaged: {reason}") from error
    return state


def check_members(path: Path) -> None:
    """Check that a zip file holds its members as they are, so that none becomes larger when it is read.

    Raises:
        ValueError: It does not.
    """
    with zipfile.ZipFile(path) as file:
        for member in file.infolist():
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise ValueError(f"its member {member.filename!r} is compressed")
        if sum(member.file_size for member in file.infolist()) > path.stat().st_size:
            raise ValueError("its members are larger than the file")


def check_state(state: Any, device: torch.device | str = "cpu") -> None:
    """Check that a state is a dict, and that its tensors have all their numbers, each in a place of its own.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(state, dict):
        raise ValueError(f"it holds a {type(state).__name__}")
    values, count = [state], 1
    while values:
        value = values.pop()
        if isinstance(value, dict | list | tuple):
            count += len(value)
            if count > MOST_VALUES:
                raise ValueError(f"it holds more than {MOST_VALUES:,} values")
            values += value.values() if isinstance(value, dict) else value
        elif isinstance(value, torch.Tensor):
            check_tensor(value, torch.device(device))


def check_tensor(tensor: torch.Tensor, device: torch.device) -> None:
    """Check that a tensor lies on a device and is dense: others can name places outside of themselves.

    Raises:
        ValueError: It does not.
    """
    if tensor.layout != torch.strided or tensor.is_nested:
        raise ValueError(f"it holds a tensor of the layout {'nested' if tensor.is_nested else tensor.layout}")
    if tensor.device.type != device.type:
        raise ValueError(f"it holds a tensor on the device {tensor.device}")
    outwards = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    if tensor.untyped_storage().nbytes() < tensor.nbytes or not tensor.permute(outwards).is_contiguous():
        raise ValueError(f"it holds a tensor {list(tensor.shape)} that lacks numbers of its own")


def seal(path: Path) -> None:
    """Write the SHA-256 of all that a zip file holds as its comment."""
    with path.open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(struct.pack("<H", SEAL))  # the length of the comment, which torch leaves at 0
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0, os.SEEK_END)
        file.write(digest.encode())


def is_sealed(path: Path) -> bool:
    """Whether a file ends with the SHA-256 of all that comes before."""
    if not path.is_file() and path.exists():  # a pipe or a device
        return False
    if path.stat().st_size <= SEAL:
        return False
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        memoryview(content) as whole,
        whole[:-SEAL] as sealed,
    ):
        return hashlib.sha256(sealed).hexdigest().encode() == content[-SEAL:]


LARGEST = 1 << 62  # an integer


def check_state_like(found: Any, expected: Any, what: str) -> None:
    """Check that a state has the form of another: its names, types and lengths, and the shapes of its tensors.

    Numbers are finite where those of the other are.

    Args:
        found: The state.
        expected: One of the same form.
        what: What to call it in an error.

    Raises:
        ValueError: It has another form.
    """
    same = type(found) is type(expected)
    if isinstance(expected, Tensor):
        same = isinstance(found, Tensor) and (found.dtype, found.shape) == (expected.dtype, expected.shape)
    elif same and isinstance(expected, dict):
        same = found.keys() == expected.keys()
    elif same and isinstance(expected, list | tuple):
        same = len(found) == len(expected)
    elif same and isinstance(expected, int | float):
        same = abs(found) <= LARGEST or not math.isfinite(expected)
    if not same:
        raise ValueError(f"{what} is {_said(found)}, expected {_said(expected)}")
    if isinstance(expected, dict | list | tuple):
        for name in expected if isinstance(expected, dict) else range(len(expected)):
            check_state_like(found[name], expected[name], f"{name!r} of {what}")


def _said(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} {list(value.shape)}"
    kind = type(value).__name__
    if isinstance(value, dict):
        return f"a {kind} of {', '.join(map(str, value)) or 'nothing'}"
    return f"a {kind} of {len(value)}" if isinstance(value, list | tuple) else f"{kind} {value!r:.40}"
