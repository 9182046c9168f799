"""The command completion."""

from __future__ import annotations

import argparse

from altmin_ext._extras import require
from altmin_ext.command_line import arguments as all_arguments
from altmin_ext.command_line.streams import say


def run(arguments: argparse.Namespace) -> None:
    """Print the completion script of a shell, which knows all commands, flags and names."""
    shtab = require("shtab", "cli")
    parser = all_arguments.completed(shtab.FILE, shtab.DIRECTORY)
    say(shtab.complete(parser, shell=arguments.shell).rstrip("\n"))
