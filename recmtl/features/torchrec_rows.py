"""Rows that are spread over processes by TorchRec: it sends the ids to their owners, and its kernels look rows up."""

from __future__ import annotations

import logging
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recmtl.balance.distributed import ProcessGroup, explain_lost_rank
from recmtl.errors import RunError
from recmtl.features.sharded_rows import Route, ShardedRows

if TYPE_CHECKING:
    from torchrec import KeyedJaggedTensor
    from torchrec.distributed.embedding import ShardedEmbeddingCollection

VERSION = "1.8.0"  # which uses what TorchRec keeps to itself
PACKAGES = (("torchrec",), ("fbgemm-gpu", "fbgemm-gpu-cpu"))  # of each one
WIDTH_STEP = 4  # numbers that its kernels read at a time
NAME = "rows"
BYTES_BESIDE = 28  # of each process: three int64 before the ids, and an int32 beside them


class TorchRecRows(ShardedRows):
    """Rows that are spread over processes in a `ShardedEmbeddingCollection` of TorchRec, row-wise.

    TorchRec has the weights in its fused kernels (FBGEMM) and distributes the ids. The rows that it looks up
    are cut from its graph: as of other rows, each task's gradient of them arrives at their owner and is balanced there,
    and this project's optimizers update them, so that the training is the same. A process sends 4 bytes for each
    distinct id and 28 for each process in a look-up, and rows as `ShardedRows`.

    Note:
        The plan is fixed, not one of TorchRec's planner: all of a table's features are one table here, cut into even
        parts. Its fused optimizers are not used, as Adam is none of them on a CPU.

    Args:
        rows: The number of rows of the whole table.
        processes: The processes.

    Raises:
        RunError: TorchRec is not installed, in another version, or cannot hold the table.
    """

    def __init__(self, rows: int, processes: ProcessGroup) -> None:
        check_installed()
        super().__init__(rows, processes)
        self._collection: ShardedEmbeddingCollection | None = None
        self._kernel_weight = torch.empty(0)  # [own rows, width], that of the collection

    def __deepcopy__(self, memo: dict[int, Any]) -> TorchRecRows:
        return type(self)(self.places.rows, self.processes)  # a copy of the weight gets a collection of its own

    def _look_up(self, weight: Tensor, places: Tensor) -> Tensor:
        """Return the rows of the weight at places by the collection's kernel, ``[n]`` to ``[n, width]``."""
        from torchrec.distributed.embedding_types import KJTList
        from torchrec.distributed.sharding.sequence_sharding import SequenceShardingContext

        if not len(places):  # the kernels take a weight without rows for one on another device
            return weight.new_empty(0, weight.shape[1])
        collection = self._collection_of(weight)
        context = collection.create_context()
        context.sharding_contexts.append(SequenceShardingContext())
        with torch.no_grad():
            rows: Tensor = collection.compute(context, KJTList([_as_feature(places)]))[0]  # [n, width]
        return rows

    def _route(self, weight: Tensor, ids: Tensor) -> Route:
        """Tell the owners of distinct ids what this process asks them for, and learn what it is asked for."""
        collection = self._collection_of(weight)
        context = collection.create_context()
        feature = _as_feature(self.places.places_of(ids).int())
        with explain_lost_rank():
            (asked,) = collection.input_dist(context, feature).wait().wait()
        self.processes.sent += feature.values().nbytes + BYTES_BESIDE * self.processes.size
        (splits,) = context.sharding_contexts
        asked_ids = self.places.rows_at(asked.values() + self.places.start).int()
        return Route(asked_ids, splits.output_splits, splits.input_splits, splits.unbucketize_permute_tensor.long())

    def _collection_of(self, weight: Tensor) -> ShardedEmbeddingCollection:
        """Return the collection, built at the first look-up, and let the weight be what its kernel reads."""
        if self._collection is None or self._kernel_weight.device != weight.device:
            self._collection, self._kernel_weight = self._built(weight)
        if weight.data_ptr() != self._kernel_weight.data_ptr():
            self._kernel_weight.copy_(weight.detach())
            weight.data = self._kernel_weight
        return self._collection

    def _built(self, weight: Tensor) -> tuple[ShardedEmbeddingCollection, Tensor]:
        """Build the collection, in all processes together, and return it with the weight of its kernel."""
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from torchrec import EmbeddingCollection, EmbeddingConfig
        from torchrec.distributed.embedding import EmbeddingCollectionSharder
        from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
        from torchrec.distributed.types import ShardingEnv

        width, device, group = weight.shape[1], weight.device, self.processes.group
        if width % WIDTH_STEP or weight.dtype != torch.float32:
            raise RunError(
                f"TorchRec holds tables of torch.float32 whose width is a multiple of {WIDTH_STEP}, got {weight.dtype} "
                f"and {width}: give another `width`, or `--trainer.shard_tables true`"
            )
        assert group is not None
        table = EmbeddingConfig(name=NAME, feature_names=[NAME], num_embeddings=self.places.rows, embedding_dim=width)
        collection = EmbeddingCollection(tables=[table], device=torch.device("meta"))
        # An optimizer without a state: this project's own are taken.
        sharder = EmbeddingCollectionSharder(fused_params={"optimizer": EmbOptimType.EXACT_SGD, "learning_rate": 0.0})
        how = {NAME: row_wise(compute_kernel="fused")}
        size = self.processes.size
        plan = construct_module_sharding_plan(collection, how, sharder, world_size=size, device_type=device.type)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):  # it draws a weight
            sharded = sharder.shard(collection, plan, ShardingEnv.from_process_group(group), device)
        ((kernel,),) = (lookup._emb_modules for lookup in sharded._lookups)
        (own,) = kernel.emb_module.split_embedding_weights()
        return sharded, own


def _as_feature(values: Tensor) -> KeyedJaggedTensor:
    """Return ids as the list of a single row: TorchRec distributes lists."""
    from torchrec import KeyedJaggedTensor

    lengths = torch.tensor([len(values)], dtype=torch.int32, device=values.device)
    return KeyedJaggedTensor(keys=[NAME], values=values, lengths=lengths, stride=1)


def check_installed() -> None:
    """Check that TorchRec and its kernels are installed in the right version, and import them.

    Raises:
        RunError: They are not.
    """
    for names in PACKAGES:
        found = next(filter(None, map(_version, names)), None)
        if found is None or found.partition("+")[0] != VERSION:
            raise RunError(
                f"`--trainer.shard_tables torchrec` needs {names[0]} {VERSION}, got {found or 'none'}: "
                "pip install 'recmtl[torchrec]'"
            )
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # of what TorchRec calls in each process
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchrec  # noqa: F401


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
