"""Public datasets, from their readers and cards, and the figures that were published for them."""

import re

import recmtl
from docs.generators.markdown import cell, table
from recmtl.data.raw import READERS
from recmtl.data.raw.base import RawReader
from recmtl.reproduction.published import sources


def overview() -> str:
    """Return a table of all datasets."""
    rows = [
        [f"[{reader.title}](#{anchor(reader)})", f"`{reader.name}`", tasks(reader), cell(reader.license)]
        for reader in READERS.values()
    ]
    return table(["dataset", "layout", "tasks", "licence"], rows, 4)


def sections() -> str:
    """Return a section for each dataset."""
    return "\n\n".join(section(reader) for reader in READERS.values())


def section(reader: RawReader) -> str:
    """Return what is known of a dataset."""
    part = f" --part {reader.parts[0]}" if reader.parts else ""
    command = f"recmtl prepare --card {reader.cards[0]} --raw FOLDER_OR_ZIP{part} --out prepared"
    facts = {
        "where": linked(reader.site),
        "licence": reader.license,
        "files": reader.files,
        **({"`--part`": ", ".join(reader.parts)} if reader.parts else {}),
        "split": reader.split,
        "in memory": reader.memory,
    }
    cards = "\n\n".join(f"Card `{name}`: {linked(recmtl.card(name).description)}" for name in reader.cards)
    lines = [f"- **{name}**: {value}" for name, value in facts.items()]
    return "\n\n".join(
        [f"## {reader.title} {{ #{anchor(reader)} }}", f"```text\n{command}\n```", "\n".join(lines), cards]
    )


def linked(text: str) -> str:
    """Return text whose addresses are links."""
    return re.sub(r"https://[^\s),]*[\w/]", r"<\g<0>>", text)


def anchor(reader: RawReader) -> str:
    """Return the anchor of a dataset's section."""
    return reader.name.replace("_", "-")


def tasks(reader: RawReader) -> str:
    """Return the tasks of a dataset's cards."""
    names = dict.fromkeys(task.name for card in reader.cards for task in recmtl.card(card).tasks)
    return ", ".join(names)


def figures() -> str:
    """Return the published figures of each source, with what is known of them."""
    parts = []
    for source in sources().values():
        rows = [
            [name, model, *(f"{auc[task]:.4f}" if task in auc else "" for task in ("ctr", "cvr", "ctcvr"))]
            for name, models in source.figures.items()
            for model, auc in models.items()
        ]
        text = f"### {source.title}\n\n<{source.url}>\n\n{source.known} {source.differences}"
        parts.append(f"{text}\n\n{table(['dataset', 'model', 'CTR', 'CVR', 'CTCVR'], rows, 2)}")
    return "\n\n".join(parts)
