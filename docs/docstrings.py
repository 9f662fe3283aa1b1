"""The docstrings of the website: equations in code blocks, and those that a class computes when it is imported."""

from __future__ import annotations

import inspect
import pkgutil
import re
from typing import Any

import griffe

EQUATION = re.compile(r"(\w+:\s+)?[\w(), ]{1,12} = ")  # "Forward:  w_eff = ...", "score = ..."
ROW = re.compile(r"\w[\w ]*:\s+\S|[\w(), ]{1,12} = ")  # "Backward: ...", "After each K_per steps: ..."


def equations(docstring: str) -> list[str]:
    """Return the paragraphs of a docstring that begin with an equation, each as a code block with a row an equation."""
    blocks = []
    for paragraph in filter(EQUATION.match, docstring.split("\n\n")):
        rows = re.sub(r"\n *(?!" + ROW.pattern + ")", " ", paragraph.replace("``", ""))
        blocks.append(f"```{{.text .equation}}\n{rows}\n```")
    return blocks


class Docstrings(griffe.Extension):
    """Complete the docstrings that mkdocstrings reads from the source."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        text = obj.docstring.value if obj.docstring else None
        if text is None and obj.is_class:  # SynFlow's docstring is an f-string
            text = inspect.getdoc(pkgutil.resolve_name(obj.path)) if "__doc__" in obj.members else None
        if text:
            for paragraph, block in zip(filter(EQUATION.match, text.split("\n\n")), equations(text), strict=True):
                text = text.replace(paragraph, block)
            # One paragraph, because a section with an indented text would become a box.
            text = re.sub(
                r"^Source: .*(\n +.*)*", lambda found: "\n" + " ".join(found[0].split()), text, flags=re.MULTILINE
            )
            obj.docstring = griffe.Docstring(text, parent=obj)
