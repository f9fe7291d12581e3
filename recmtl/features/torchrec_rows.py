"""Rows that are spread over processes by TorchRec: it sends the ids to their owners, and its kernels look rows up."""

from __future__ import annotations

import logging
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recmtl.balance.distributed import ProcessGroup, explain_lost_rank
from recmtl.errors import RunError
from recmtl.features.sharded_rows import Route, ShardedRows

if TYPE_CHECKING:
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen

VERSION = "1.8.0"  # with which its messages and kernels are tested
TORCH = "2.13"  # for which the kernels of this version are built
INSTALL = "pip install 'recmtl[torchrec]'"
PACKAGES = (("torchrec",), ("fbgemm-gpu", "fbgemm-gpu-cpu"))  # one of each group is needed
ROW_BYTES = 16  # that its kernels read at once
BYTES_BESIDE = 28  # of each process: three int64 before the ids, and an int32 beside them


class TorchRecRows(ShardedRows):
    """Rows that are spread over processes by the messages and kernels of TorchRec.

    TorchRec finds the owners of ids and sends them there, and its kernels (FBGEMM) copy the rows. All else is as in
    `ShardedRows`: each task's gradient of a row arrives at its owner and is balanced there, and the optimizers of this
    project update it, so that the training is the same, bit for bit. A process sends 4 bytes for each distinct id and
    28 for each process in a look-up.

    Note:
        TorchRec's planner and its fused optimizers are not used: all features of one width are one table whose rows are
        scattered, where it would give each process a range of rows; and rows are updated after balancing, by any
        optimizer.

    Args:
        rows: The number of rows of the whole table.
        processes: The processes.

    Raises:
        RunError: TorchRec is not installed, in another version, or cannot read the rows.
    """

    def __init__(self, rows: int, processes: ProcessGroup) -> None:
        check_installed()
        super().__init__(rows, processes)
        self._kernel: SplitTableBatchedEmbeddingBagsCodegen | None = None
        self._address = 0  # of the weight that the kernel reads

    def check(self, weight: Tensor) -> None:
        """Check that the kernels can read the rows of a weight.

        Raises:
            RunError: They cannot.
        """
        size = weight.shape[1] * weight.element_size()
        if size % ROW_BYTES:
            raise RunError(
                f"TorchRec reads rows of a multiple of {ROW_BYTES} bytes, got {size} in a table of width "
                f"{weight.shape[1]}: give another `width`, or `--trainer.shard_tables true`"
            )

    def _look_up(self, weight: Tensor, places: Tensor) -> Tensor:
        """Return the rows of the weight at places by a kernel, ``[n]`` to ``[n, width]``, without a gradient."""
        if not len(places):  # the kernels refuse a weight without rows
            return weight.new_empty(0, weight.shape[1])
        offsets = torch.arange(len(places) + 1, device=places.device)
        with torch.inference_mode(False), torch.no_grad():  # the kernels know no inference mode
            if self._kernel is None or self._address != weight.data_ptr():
                self._kernel, self._address = kernel_of(weight), weight.data_ptr()
            found: Tensor = self._kernel(places, offsets)  # [n, numbers of 4 bytes]
        return found.view(weight.dtype)

    def _route(self, weight: Tensor, ids: Tensor) -> Route:
        """Send distinct ids to the owners of their rows, and receive the ids that other processes request."""
        from torchrec import KeyedJaggedTensor
        from torchrec.distributed.dist_data import KJTAllToAll
        from torchrec.distributed.embedding_sharding import bucketize_kjt_before_all2all

        self.check(weight)  # in all processes, before any of them waits for another
        size, group = self.processes.size, self.processes.group
        assert group is not None
        places, count = self.places.places_of(ids).int(), torch.tensor([len(ids)], dtype=torch.int32)
        one_list = KeyedJaggedTensor(["rows"], places, lengths=count.to(ids.device), stride=1)
        chunk = torch.tensor([self.places.chunk], device=ids.device)
        by_owner, slots = bucketize_kjt_before_all2all(one_list, size, chunk, output_permute=True)
        self.processes.sent += places.nbytes + BYTES_BESIDE * size
        with explain_lost_rank():
            asked = KJTAllToAll(group, [1] * size)(by_owner).wait().wait()
        asked_ids = self.places.rows_at(asked.values() + self.places.start).int()
        return Route(asked_ids, asked.lengths().tolist(), by_owner.lengths().tolist(), slots.long())


def kernel_of(weight: Tensor) -> SplitTableBatchedEmbeddingBagsCodegen:
    """Return a kernel that copies rows of a weight, which it reads where they are, as numbers of 4 bytes."""
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    bits = weight.detach().view(torch.float32)  # they copy the bits of any other type as well
    gpu = (EmbeddingLocation.DEVICE, ComputeDevice.CUDA)
    kernel = SplitTableBatchedEmbeddingBagsCodegen(
        [(*bits.shape, *(gpu if bits.is_cuda else (EmbeddingLocation.HOST, ComputeDevice.CPU)))],
        optimizer=EmbOptimType.EXACT_SGD,  # without a state: it takes no step
        pooling_mode=PoolingMode.NONE,
        device=bits.device,
        preallocated_host_buffers=None if bits.is_cuda else {"weights": bits.view(-1)},
    )
    if bits.is_cuda:
        kernel.weights_dev = bits.view(-1)
    return kernel


def check_installed() -> None:
    """Check that TorchRec and its kernels are installed in the right version, and import them.

    Raises:
        RunError: They are not.
    """
    for names in PACKAGES:
        found = next(filter(None, map(_version, names)), None)
        if found is None or found.partition("+")[0] != VERSION:
            raise RunError(
                f"`--trainer.shard_tables torchrec` needs {names[0]} {VERSION}, got {found or 'none'}: {INSTALL}"
            )
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # it warns of what TorchRec calls
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import fbgemm_gpu  # noqa: F401
            import torchrec  # noqa: F401
        except (ImportError, OSError, RuntimeError) as error:  # a library of another torch is no `ImportError`
            reason = str(error).strip().partition("\n")[0]
            raise RunError(
                f"`--trainer.shard_tables torchrec` cannot import TorchRec: {reason}: it needs torch {TORCH}, got "
                f"{torch.__version__}, and what {INSTALL} brings along"
            ) from error


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
