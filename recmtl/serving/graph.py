"""Write the served network as a graph: ONNX, or a program of `torch.export`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from recmtl.errors import DataError, RunError
from recmtl.serving.network import VALUES, ServedNetwork

if TYPE_CHECKING:
    import onnx_ir

Format = Literal["onnx", "torch"]
GRAPHS: dict[Format, str] = {"onnx": "network.onnx", "torch": "network.pt2"}
INSTALL = "pip install 'recmtl[onnx]'"
OPSET = 18
EXTERNAL_BYTES = 1 << 30  # of weights, from which on they lie in a file beside the graph: protobuf ends at 2 GiB
LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _refused(network: ServedNetwork, what: str, error: Exception) -> str:
    name, lines = type(network.model).__name__, [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"the model {name} cannot be exported by {what}: {' '.join(lines[:2])[:300] or type(error).__name__}"


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
