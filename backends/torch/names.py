"""Names of a model's tensors as attribute paths and arguments in Python, each used once."""

from __future__ import annotations

import keyword
import re

import torch


def identifier(text: str) -> str:
    """The text as a Python identifier."""
    name = re.sub(r"\W", "_", text, flags=re.ASCII) or "_"
    return f"_{name}" if name[0].isdigit() or keyword.iskeyword(name) else name


def unique(name: str, taken: set[str]) -> str:
    """The name, or the name with a number where it is taken; it is taken from now on."""
    found, count = name, 1
    while found in taken:
        found, count = f"{name}_{count}", count + 1
    taken.add(found)
    return found


class Paths:
    """Attribute paths in a module: `encoder.layer.0.weight` stays what it is, other signs become `_`."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._folders: set[str] = set()
        self._module = torch.nn.Module()

    def path(self, name: str) -> str:
        """A path for a tensor that no other tensor has, and that is no part of another's path."""
        parts = [self._part(part) for part in name.split(".") if part] or ["_"]
        for i in range(
            len(parts) - 1, 0, -1
        ):  # a tensor has no parts: a.weight beside a.weight.T is a.weight_T
            if ".".join(parts[:i]) in self._used:
                parts[i - 1 : i + 1] = [f"{parts[i - 1]}_{parts[i]}"]
        candidate, count = ".".join(parts), 1
        while candidate in self._used or candidate in self._folders:
            candidate, count = ".".join([*parts[:-1], f"{parts[-1]}_{count}"]), count + 1
        self._used.add(candidate)
        self._folders |= _folders(candidate)
        return candidate

    def _part(self, text: str) -> str:
        name = re.sub(r"\W", "_", text, flags=re.ASCII)
        if name[0].isdigit() and not name.isdigit():
            name = f"_{name}"
        return f"{name}_" if hasattr(self._module, name) or keyword.iskeyword(name) else name


def _folders(path: str) -> set[str]:
    parts = path.split(".")
    return {".".join(parts[:i]) for i in range(1, len(parts))}
