"""Store the weights of an exported network in bf16, or in int8 with a scale per row; all is still computed in fp32.

Of a table that is looked up only the rows that a request needs are converted. Other weights are converted when ONNX
Runtime loads the graph, as it folds constants, and by each call of a program of `torch.export`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from recmtl.serving.graph import program_of
from recmtl.serving.network import ServedNetwork

if TYPE_CHECKING:
    import onnx_ir

Weights = Literal["fp32", "bf16", "int8"]
WEIGHTS: tuple[Weights, ...] = ("fp32", "bf16", "int8")
# The operators of ONNX, and the inputs of them, whose constants are weights.
LOOK_UP, PRODUCTS = ("Gather", 0), (("MatMul", 0), ("MatMul", 1), ("Gemm", 0), ("Gemm", 1))
# The operators of torch that a matrix goes through on its way into a product.
MATRICES = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "t", "numpy_T", "transpose", "permute", "mT")
LEAST = 256  # numbers of a weight that is stored in fewer bits
STEPS = 127  # from 0 to the largest int8


def stored_parts(weight: Tensor, weights: Weights, axis: int) -> list[Tensor]:
    """Return what stands for a weight, rounded to the nearest: bf16 numbers, or int8 ones and what they count in.

    Args:
        weight: The weight, in fp32.
        weights: The precision, ``bf16`` or ``int8``.
        axis: The dimension along which numbers share a scale.
    """
    if weights == "bf16":
        return [weight.bfloat16()]
    scale = weight.abs().amax(axis, keepdim=True) / STEPS
    return [(weight / scale.where(scale > 0, 1.0)).round().to(torch.int8), scale]


def has_fewer_bits(weight: Tensor) -> bool:
    """Return whether a weight is stored in fewer bits: a matrix, or a stack of them, that is not small."""
    return weight.dim() >= 2 and weight.dtype == torch.float32 and weight.numel() >= LEAST


def store_onnx_weights(model: onnx_ir.Model, weights: Weights) -> None:
    """Store the tables and matrices of an ONNX model in fewer bits, in place."""
    import onnx_ir

    graph = model.graph
    for name, value in list(graph.initializers.items()):
        uses = list(value.uses())
        places = {(use.node.op_type, use.idx) for use in uses}
        if not places <= {LOOK_UP, *PRODUCTS} or value.const_value is None:
            continue
        weight = torch.from_numpy(value.const_value.numpy().copy())
        looked_up = places == {LOOK_UP}
        if not has_fewer_bits(weight):
            continue
        axis = -1 if looked_up or weight.shape[-1] >= weight.shape[-2] else -2
        parts = [_initializer(model, f"{name}.{i}", part) for i, part in enumerate(stored_parts(weight, weights, axis))]
        if not looked_up:
            nodes = _restoring(parts)
            graph.insert_before(graph[0], nodes)
        for use in uses:
            if looked_up:
                gathers = [onnx_ir.node("Gather", [part, use.node.inputs[1]]) for part in parts]
                nodes = [*gathers, *_restoring([gather.outputs[0] for gather in gathers])]
                graph.insert_before(use.node, nodes)
                onnx_ir.convenience.replace_all_uses_with(use.node.outputs[0], nodes[-1].outputs[0])
                graph.remove(use.node, safe=True)
            else:
                use.node.replace_input_with(use.idx, nodes[-1].outputs[0])
        graph.initializers.pop(name)


def _initializer(model: onnx_ir.Model, name: str, part: Tensor) -> onnx_ir.Value:
    import onnx_ir

    bits = part.view(torch.uint16) if part.dtype == torch.bfloat16 else part  # NumPy has no bf16
    kind = onnx_ir.DataType.BFLOAT16 if part.dtype == torch.bfloat16 else None
    tensor = onnx_ir.tensor(bits.numpy(), dtype=kind, name=name)
    shape = onnx_ir.Shape(part.shape)
    value = onnx_ir.Value(name=name, shape=shape, type=onnx_ir.TensorType(tensor.dtype), const_value=tensor)
    model.graph.register_initializer(value)
    return value


def _restoring(parts: Sequence[onnx_ir.Value]) -> list[onnx_ir.Node]:
    """Return the nodes that make fp32 numbers of stored parts."""
    import onnx_ir

    cast = onnx_ir.node("Cast", [parts[0]], {"to": onnx_ir.DataType.FLOAT.value})
    return [cast, *(onnx_ir.node("Mul", [cast.outputs[0], scale]) for scale in parts[1:])]


def store_program_weights(
    network: ServedNetwork, program: torch.export.ExportedProgram, weights: Weights
) -> torch.export.ExportedProgram:
    """Return a program of `torch.export` whose tables and matrices are stored in fewer bits."""
    module = program.module(check_guards=False)
    stored = {name for name, weight in module.named_parameters() if has_fewer_bits(weight)}
    nodes = [node for node in module.graph.nodes if node.op == "get_attr" and node.target in stored]
    used = {node: {str(user.target).split(".")[1] for user in node.users} for node in nodes}
    nodes = [node for node in nodes if used[node] <= {"index_select"} or used[node] <= {*MATRICES}]
    for number, node in enumerate(nodes):
        weight = module.get_parameter(node.target).detach()
        looked_up = used[node] == {"index_select"}
        axis = -1 if looked_up or weight.shape[-1] >= weight.shape[-2] else -2
        names = []
        for i, part in enumerate(stored_parts(weight, weights, axis)):
            names.append(f"stored_{number}_{i}")
            module.register_buffer(names[-1], part)
        for user in list(node.users):
            _restore_for(user, node, names, looked_up)
    for node in nodes:
        module.graph.erase_node(node)
    module.recompile()
    for name in [node.target for node in nodes]:
        owner, _, attribute = name.rpartition(".")
        delattr(module.get_submodule(owner), attribute)
    return program_of(network, module)


def _restore_for(user: torch.fx.Node, node: torch.fx.Node, names: Sequence[str], looked_up: bool) -> None:
    """Let a node of a program read the stored parts of a weight in place of the weight itself."""
    graph, aten = user.graph, torch.ops.aten
    with graph.inserting_before(user):
        parts: list[Any] = [graph.get_attr(name) for name in names]
        if looked_up:
            parts = [graph.call_function(aten.index_select.default, (part, *user.args[1:])) for part in parts]
        restored = graph.call_function(aten.to.dtype, (parts[0], torch.float32))
        for scale in parts[1:]:
            restored = graph.call_function(aten.mul.Tensor, (restored, scale))
    if looked_up:
        user.replace_all_uses_with(restored)
        graph.erase_node(user)
    else:
        user.replace_input_with(node, restored)
