"""The command info."""

from __future__ import annotations

import argparse
import platform
from typing import Any

import numpy as np
import torch

import altmin_ext
from altmin_ext import data
from altmin_ext._files import to_json
from altmin_ext.command_line.streams import say
from altmin_ext.ops import _native as native


def run(arguments: argparse.Namespace) -> None:
    """Show versions, the native module, threads and the data found."""
    found = {name: data.location(name) for name in data.names()}
    information = {
        "altmin_ext": altmin_ext.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
        "native": native.describe(),
        "data": {name: None if path is None else str(path) for name, path in found.items()},
    }
    if arguments.json:
        say(to_json(information))
        return
    for name, value in information.items():
        if not isinstance(value, dict):
            say(f"{name:<12}{_words(value)}")
            continue
        say(name)
        for key, item in value.items():
            say(f"  {key:<16}{_absent(name, key) if item is None else _words(item)}")


def _absent(table: str, key: str) -> str:
    if table != "data":
        return "-"
    return "not here; needs scikit-learn" if key == "digits" else "not here; downloaded when first used"


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
