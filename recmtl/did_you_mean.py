"""The nearest known name for a mistyped one: of a command, an option, a class, a column or a key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from recmtl.errors import UsageError


def did_you_mean(name: str, known: Iterable[str], quote: str = "'", most: int = 1) -> str:
    """Return "; did you mean 'x'?" for at most `most` known names that are spelled alike, or an empty string."""
    near = get_close_matches(name, list(known), most)
    return f"; did you mean {' or '.join(f'{quote}{other}{quote}' for other in near)}?" if near else ""


def unknown_option(owner: str, name: str, known: Mapping[str, str], otherwise: str) -> UsageError:
    """Build the error of an option that its owner does not have.

    The nearest option is the one whose last word is spelled alike, first of those beside it; else the one whose first
    word is. It is proposed in the spelling that `known` has for it. `otherwise` ends the message if there is none.
    """
    beside, _, word = name.removeprefix("--").rpartition(".")
    whole = {other.removeprefix("--"): other for other in known}
    words = {other.rpartition(".")[2]: other for other in whole}
    siblings = [last for last in words if f"{beside}.{last}".lstrip(".") in whole]
    if near := get_close_matches(word, siblings, 1):
        proposed = whole[f"{beside}.{near[0]}".lstrip(".")]
    elif near := get_close_matches(word, words, 1):
        proposed = whole[words[near[0]]]
    elif near := get_close_matches(name.removeprefix("--").partition(".")[0], whole, 1):
        proposed = whole[near[0]]
    else:
        return UsageError(f"{owner} has no option `{name}`{otherwise}")
    return UsageError(f"{owner} has no option `{name}`; did you mean `{known[proposed]}`?")
