#!/usr/bin/env bash
# Guess: in polars the mean of the pixels 200 and 200, held as UInt8, is 200, down a column and across
#   columns.
# What happens: down a column it is 200; mean_horizontal gives 72, since the columns are added up in UInt8
#   first, and sum_horizontal gives 144 instead of 400. A list column and pandas are right.
# Why it matters: the brightness of pictures whose pixels are columns comes out wrong without a warning; cast
#   them first.
# Seen with polars 2.1.0, pandas 3.1.1, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    polars==2.1.0 pandas==3.1.1
"$folder/environment/bin/python" - <<'EOF'
import sys
from importlib.metadata import version

import pandas as pd
import polars as pl

print({name: version(name) for name in ("polars", "pandas")})
schema = {"left": pl.UInt8, "right": pl.UInt8}
pixels = pl.DataFrame({"left": [200, 200], "right": [200, 200]}, schema=schema)
frame = pd.DataFrame({"left": [200, 200], "right": [200, 200]}, dtype="uint8")
left, both = pl.col("left"), pl.concat_list("left", "right")
ways = {
    "down a column": pixels.select(sum=left.sum(), mean=left.mean()).row(0),
    "down a group": pixels.group_by("right").agg(sum=left.sum(), mean=left.mean()).row(0)[1:],
    "across, as a list": pixels.select(sum=both.list.sum(), mean=both.list.mean()).row(0),
    "across, in pandas": (int(frame.sum(axis=1)[0]), float(frame.mean(axis=1)[0])),
    "across, horizontal": pixels.select(
        sum=pl.sum_horizontal("left", "right"), mean=pl.mean_horizontal("left", "right")
    ).row(0),
}
for way, (total, mean) in ways.items():
    print(f"{way}: sum {total}, mean {mean}")
horizontal = ways.pop("across, horizontal")
same = horizontal == (144, 72.0) and set(ways.values()) == {(400, 200.0)}
sys.exit(0 if same else "The behaviour has changed.")
EOF
