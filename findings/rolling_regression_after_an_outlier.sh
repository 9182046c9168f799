#!/usr/bin/env bash
# Guess: an outlier of 1e7 spoils a rolling regression by rounding until the window has turned over once more;
#   from then on the coefficients are exact again.
# What happens: all estimates after it stay off, here by up to 0.008, except the very last one: that row alone
#   is computed from scratch, the others by adding and taking away rows (reset=50 ends it after 50 rows).
# Why it matters: whoever looks at the latest coefficients sees nothing, the curve behind them is wrong.
# Seen with statsmodels 0.15.0, pandas 3.1.1, numpy 2.4.6, scipy 1.17.1, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    statsmodels==0.15.0 pandas==3.1.1 numpy==2.4.6 scipy==1.17.1
"$folder/environment/bin/python" - <<'EOF'
import sys
from importlib.metadata import version

import numpy as np
from statsmodels.regression.rolling import RollingOLS

print({name: version(name) for name in ("statsmodels", "pandas", "numpy", "scipy")})
window, outlier = 50, 100
random = np.random.default_rng(0)
x = random.normal(size=(1000, 3))
y = x @ [1.0, 2.0, 3.0] + 0.1 * random.normal(size=1000)
spoilt = x.copy()
spoilt[outlier] *= 1e7
gone = outlier + window  # the first row whose window is free of the outlier
ends = range(gone + 1, 1001)
exact = np.array([np.linalg.lstsq(x[end - window : end], y[end - window : end])[0] for end in ends])


def error(x, reset=None):
    """Largest error of the coefficients, for each row from `gone` on."""
    return np.abs(RollingOLS(y, x, window=window).fit(reset=reset).params[gone:] - exact).max(axis=1)


for name, apart in (("no outlier", error(x)), ("outlier", error(spoilt)), ("reset=50", error(spoilt, 50))):
    wrong = np.flatnonzero(apart > 1e-6)
    print(
        f"{name}: {len(wrong)} of {len(apart)} estimates are off, at most by {apart.max():.1e}, "
        f"the last by {apart[-1]:.1e}"
    )
apart = error(spoilt)
changed = error(x).max() > 1e-9 or (apart[:-1] < 1e-5).any() or apart[-1] > 1e-9
changed |= error(spoilt, window)[window:].max() > 1e-9
sys.exit("The behaviour has changed." if changed else 0)
EOF
