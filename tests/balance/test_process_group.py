"""What a process group leaves behind."""

import sys

import torch.distributed as dist

from recmtl.balance import ProcessGroup


def test_the_default_group_ends_when_it_is_destroyed(tmp_path):
    """One that is still held keeps gloo's threads, which may abort the process as Python ends."""
    dist.init_process_group("gloo", f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        before = sys.getrefcount(dist.group.WORLD)
        processes = ProcessGroup(dist.group.WORLD)
        after = sys.getrefcount(dist.group.WORLD)
        assert after == before
        assert processes.group is dist.group.WORLD
    finally:
        dist.destroy_process_group()
    assert processes.group is None
