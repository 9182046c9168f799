#!/usr/bin/env bash
# Guess: river's RollingROCAUC, which is exact, agrees with scikit-learn, so equal scores give 0.5.
# What happens: half of the tied positives is rounded down to a whole number. Equal scores give 0 with one
#   positive in the window, 1/3 with three, and 0.5 only if their number is even; the approximate ROCAUC gives
#   0.5 throughout.
# Why it matters: on a stream with rare positives a net with coarse or equal outputs looks worse than chance.
# Seen with river 0.26.1, scikit-learn 1.9.1, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    river==0.26.1 scikit-learn==1.9.1 numpy==2.4.6
"$folder/environment/bin/python" - <<'EOF'
import sys
from importlib.metadata import version

from river import metrics
from sklearn.metrics import roc_auc_score

print({name: version(name) for name in ("river", "scikit-learn")})
changed = False
for positives in range(1, 9):
    truth = [i % 10 == 0 and i < 10 * positives for i in range(100)]
    rolling, approximate = metrics.RollingROCAUC(window_size=100), metrics.ROCAUC()
    for label in truth:
        rolling.update(label, 0.5)
        approximate.update(label, 0.5)
    batch = roc_auc_score(truth, [0.5] * 100)
    print(
        f"{positives} of 100 positive: RollingROCAUC {rolling.get():.4f}, ROCAUC {approximate.get():.4f}, "
        f"scikit-learn {batch:.4f}"
    )
    changed |= abs(rolling.get() - positives // 2 / positives) > 1e-9
    changed |= abs(approximate.get() - 0.5) > 1e-9 or batch != 0.5
sys.exit("The behaviour has changed." if changed else 0)
EOF
