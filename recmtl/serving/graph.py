"""Write the served network as a graph: ONNX, or a program of `torch.export`."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from recmtl.errors import MAX_SHOWN, DataError, RunError
from recmtl.serving.network import VALUES, ServedNetwork
from recmtl.serving.reader import ONNX_FILE
from recmtl.serving.scorer import TORCH_FILE

if TYPE_CHECKING:
    import onnx_ir

Format = Literal["onnx", "torch"]
GRAPHS: dict[Format, str] = {"onnx": ONNX_FILE, "torch": TORCH_FILE}
INSTALL = "pip install 'recmtl[onnx]'"
OPSET = 18
EXTERNAL_BYTES = 1 << 30  # of weights, from which on they lie in a file beside the graph: protobuf ends at 2 GiB
LOGGERS = ("torch.onnx", "torch.export", "torch.fx.experimental.symbolic_shapes", "onnxscript", "onnx_ir")
# What torch says of code that it cannot follow, and what that means.
REASONS = (
    ("data-dependent", "its code depends on values of the batch, as by `if`, `.item()` or `torch.unique`"),
    (
        "specialized it to be a constant",
        "its code fixes the number of rows, as by `len(batch)`: take `batch.labels.shape[0]`",
    ),
)
NO_OPERATOR = re.compile(
    r"No (?:ONNX function|decompositions?) (?:found|registered) for <OpOverload\(op='(?:aten\.)?([^']+)'"
)


def check_installed(form: Format) -> None:
    """Check that the packages which write a format are installed.

    Raises:
        DataError: One is missing.
    """
    for module in ("onnx", "onnxscript", "onnxruntime") if form == "onnx" else ():
        try:
            __import__(module)
        except ImportError as error:
            raise DataError(f"to export a model as ONNX, {module} must be installed: `{INSTALL}`") from error


def program_of(network: ServedNetwork, module: torch.nn.Module | None = None) -> torch.export.ExportedProgram:
    """Return the program of a network for any number of rows, and of values in lists.

    Args:
        network: The network.
        module: What computes the same from the same inputs; ``None`` takes the network itself.

    Raises:
        RunError: `torch.export` cannot follow the model's code.
    """
    rows = torch.export.Dim("rows")
    lists = {VALUES.format(place): f"values_{place}" for place in range(len(network.inputs))}
    shapes = tuple({0: torch.export.Dim(lists[name]) if name in lists else rows} for name in network.inputs)
    named = {"inputs": shapes} if module is None else shapes
    try:
        with silent(), torch.no_grad():
            program = torch.export.export(module or network, network.example(), dynamic_shapes=named)
    except Exception as error:
        raise RunError(_refused(network, "torch.export", error)) from error
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # names files of this machine
    return program


def onnx_of(network: ServedNetwork, program: torch.export.ExportedProgram) -> onnx_ir.Model:
    """Return the ONNX model of a program.

    Raises:
        RunError: ONNX has no operator for a part of the model.
    """
    try:
        with silent(), torch.no_grad():
            converted = torch.onnx.export(program, dynamo=True, verbose=False, opset_version=OPSET)
    except Exception as error:
        raise RunError(_refused(network, "ONNX", error)) from error
    assert converted is not None
    model = converted.model
    _clean(model)
    _rename(model.graph.inputs, list(network.inputs), model)
    _rename(model.graph.outputs, [task.name for task in network.tasks], model)
    return model


def save_onnx(model: onnx_ir.Model, path: Path) -> None:
    """Write an ONNX model; large weights go to a file beside it."""
    import onnx_ir

    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    onnx_ir.save(model, path, external_data=f"{path.name}.data" if weights > EXTERNAL_BYTES else None)


def save_program(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a program of `torch.export`."""
    with silent():
        torch.export.save(program, path)


@contextmanager
def silent() -> Iterator[None]:
    """Keep what the exporters log and warn of their own parts from the user within a block."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _refused(network: ServedNetwork, what: str, error: Exception) -> str:
    """Return why a model cannot be exported, and the place in the user's code."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    text = "\n".join(map(str, chain))
    found = NO_OPERATOR.search(text)
    if found:
        reason = f"it has no operator for `{found[1]}`: try `--format torch`"
    else:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        reason = next((meaning for said, meaning in REASONS if said in text), first[:MAX_SHOWN])
    place = next(filter(None, map(_place, chain)), "")
    return f"the model {type(network.model).__name__} cannot be exported by {what}{place}: {reason}"


def _place(error: BaseException) -> str:
    """Return the innermost line of an error that is neither in torch nor in recmtl."""
    modules = [sys.modules[name] for name in ("torch", "recmtl", "onnxscript", "onnx_ir") if name in sys.modules]
    others = tuple(str(Path(module.__file__).parent) + os.sep for module in modules if module.__file__)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(("<", *others))]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


def _clean(model: onnx_ir.Model) -> None:
    """Remove what the exporter notes on each node: among it are the source files of this machine."""
    import onnx_ir

    model.graph.name, model.doc_string, model.graph.doc_string = "recmtl", None, None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in onnx_ir.traversal.RecursiveGraphIterator(model.graph):
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()


def _rename(values: Sequence[Any], names: list[str], model: onnx_ir.Model) -> None:
    """Name inputs or outputs; other values of these names get another one."""
    taken = {value.name: value for node in model.graph for value in node.outputs}
    taken |= dict(model.graph.initializers.items())
    for value, name in zip(values, names, strict=True):
        other = taken.get(name)
        if other is not None and other is not value:
            other.name = f"{name}_of_the_graph"
        value.name = name
