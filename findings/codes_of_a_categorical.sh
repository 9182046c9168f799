#!/usr/bin/env bash
# Guess: the codes of a new Categorical column ["dog", "cat"] are 0 and 1, whatever else was read before, as
#   in pandas and pyarrow.
# What happens: all Categorical columns of a process share their codes in polars. Beside another column they
#   are 2 and 3, and 0 and 1 again once that column is gone. A second pass over the same data may give other
#   codes.
# Why it matters: codes that index an embedding or one-hot inputs of a net mean other categories in the next
#   run; take them from a pl.Enum with its categories written down.
# Seen with polars 2.1.0, pandas 3.1.1, pyarrow 26.0.1, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    polars==2.1.0 pandas==3.1.1 pyarrow==26.0.1
"$folder/environment/bin/python" - <<'EOF'
import sys
from importlib.metadata import version

import pandas as pd
import polars as pl
import pyarrow as pa

print({name: version(name) for name in ("polars", "pandas", "pyarrow")})
animals, colours = ["dog", "cat"], ["red", "green"]
packages = {
    "polars": (lambda names: pl.Series(names, dtype=pl.Categorical), lambda c: c.to_physical().to_list()),
    "polars, Enum": (
        lambda names: pl.Series(names, dtype=pl.Enum(names)),
        lambda c: c.to_physical().to_list(),
    ),
    "pandas": (
        lambda names: pd.Series(pd.Categorical(names, categories=names)),
        lambda c: c.cat.codes.tolist(),
    ),
    "pyarrow": (lambda names: pa.array(names).dictionary_encode(), lambda c: c.indices.to_pylist()),
}
outcome = {}
for package, (column, codes) in packages.items():
    alone = codes(column(animals))
    other = column(colours)
    beside = codes(column(animals))
    del other
    outcome[package] = alone, beside, codes(column(animals))
    print(f"{package}: alone {alone}, beside a column of colours {beside}, after that {outcome[package][2]}")
same = outcome.pop("polars") == ([0, 1], [2, 3], [0, 1])
same &= all(codes == ([0, 1],) * 3 for codes in outcome.values())
sys.exit(0 if same else "The behaviour has changed.")
EOF
