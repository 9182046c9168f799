"""The command line of the study."""

from __future__ import annotations

import argparse

import torch

from benchmarks.paper import continual
from benchmarks.paper.continual import report, streams, study
from benchmarks.paper.continual.contenders import contenders


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper.continual",
        description=continual.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=("tune", "run", "table", "figure"))
    parser.add_argument(
        "streams", nargs="*", metavar="stream", help=f"of {', '.join(streams.names)}; by default all"
    )
    parser.add_argument("--passes", type=int, default=1, help="over each task, 1 by default")
    parser.add_argument("--seeds", type=int, default=5, help="runs of every learner, 5 by default")
    parser.add_argument(
        "--contenders", nargs="+", metavar="NAME", default=list(contenders), help="some rows alone"
    )
    arguments = parser.parse_args()
    for what, known in (("streams", streams.names), ("contenders", contenders)):
        for name in getattr(arguments, what):
            if name not in known:
                parser.error(f"{what} must be of {', '.join(known)}, but one is {name!r}.")
    torch.set_num_threads(1)
    for name in arguments.streams or streams.names:
        if arguments.action == "tune":
            study.tune(name, arguments.contenders)
        elif arguments.action == "run":
            study.run(name, arguments.passes, arguments.seeds, arguments.contenders)
    if arguments.action == "table":
        print(report.table())
    elif arguments.action == "figure":
        report.figure(study.results / "continual.png")


if __name__ == "__main__":
    main()
