"""Changes of the environment since a run began are reported."""

from pathlib import Path

from recmtl.recipe import environment as module
from recmtl.recipe.environment import environment, environment_changes


def test_each_change_is_named(tmp_path: Path, monkeypatch) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("".join(f"# {line}\n" for line in environment()) + "data: {}\n")
    assert list(environment_changes(recipe)) == []
    monkeypatch.setattr(module.torch, "get_num_threads", lambda: 64)
    (note,) = environment_changes(recipe)
    assert note.startswith("the run was begun with ")
    assert note.endswith(" threads, here it is 64 threads: the last bits may differ")
    recipe.write_text("data: {}\n")  # written by hand
    assert list(environment_changes(recipe)) == []
