"""Hooks of the build: generated pages, their places in the navigation, formulas. Run as `python -m mkdocs build`."""

from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from docs.generators.content import generated_files, generated_nav, with_inserts
from docs.generators.markdown import render_formulas

_generated: dict[str, str | bytes] = {}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Generate pages, and put them where the navigation names their group."""
    _generated.clear()
    _generated.update(generated_files())
    config.nav = filled(config.nav or [])
    return config


def filled(nav: list[Any]) -> list[Any]:
    """Return the navigation with the pages of each generated group."""
    groups = generated_nav()
    result = []
    for entry in nav:
        if isinstance(entry, dict):
            ((title, content),) = entry.items()
            if isinstance(content, list):
                content = filled(content)
            elif content in groups:
                content = groups[content]
            result.append({title: content})
        else:
            result.append(entry)
    return result


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and figures to the files of the site."""
    for path, content in _generated.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Insert the tables that a page asks for."""
    return with_inserts(markdown)


def on_page_content(html: str, **_: object) -> str:
    """Show formulas without a script."""
    return render_formulas(html)
