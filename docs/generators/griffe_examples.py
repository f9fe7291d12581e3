"""An extension of griffe: the examples of a docstring are shown as code."""

import re
from typing import Any

import griffe


class CodeExamples(griffe.Extension):
    """Reads the section `Example:` as griffe's `Examples:`, whose doctest lines become code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section in the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
