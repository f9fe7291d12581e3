"""What the bits of a run depend on beside its recipe is noted where it is not as it was."""

from pathlib import Path

from recmtl.recipe import environment as module
from recmtl.recipe.environment import changes, environment


def test_what_is_not_as_it_was_is_named(tmp_path: Path, monkeypatch) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("".join(f"# {line}\n" for line in environment()) + "data: {}\n")
    assert list(changes(recipe)) == []
    monkeypatch.setattr(module.torch, "get_num_threads", lambda: 64)
    (said,) = changes(recipe)
    assert said.startswith("the run was begun with ")
    assert said.endswith(" threads, here it is 64 threads: the last bits may differ")
    recipe.write_text("data: {}\n")  # written by hand
    assert list(changes(recipe)) == []
