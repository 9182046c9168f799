#!/usr/bin/env bash
# Guess: river and frouros, given the same delta, threshold and forgetting factor, signal a drift at the
#   same sample.
# What happens: after 500 calm samples river signals 34 samples past the jump and frouros 43, after 5000 it
#   is 32 and 68: frouros compares the sum itself with the threshold, river its rise above its lowest value.
# Why it matters: how late a jump of the loss is noticed depends on how long training had been calm, with
#   one of the two.
# Seen with river 0.23.0, frouros 0.9.0, typing_extensions 4.16.0, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    river==0.23.0 frouros==0.9.0 typing_extensions==4.16.0
"$folder/environment/bin/python" - <<'EOF'
import random
import sys
from importlib.metadata import version

from frouros.detectors.concept_drift import PageHinkley as FrourosPageHinkley, PageHinkleyConfig
from river.drift import PageHinkley as RiverPageHinkley

print({name: version(name) for name in ("river", "frouros")})
seen = {500: {"river": 34, "frouros": 43}, 5000: {"river": 32, "frouros": 68}}  # calm samples: delays


def delays(calm):
    """Samples between the jump of the mean from 0.2 to 0.8 and each detector's first signal."""
    draw = random.Random(0)
    river = RiverPageHinkley(min_instances=30, delta=0.005, threshold=20.0, alpha=0.9999, mode="up")
    frouros = FrourosPageHinkley(
        PageHinkleyConfig(delta=0.005, lambda_=20.0, alpha=0.9999, min_num_instances=30)
    )
    first = {}
    for sample in range(calm + 1000):
        value = draw.uniform(0.1, 0.3) if sample < calm else draw.uniform(0.7, 0.9)
        river.update(value)
        frouros.update(value=value)
        if river.drift_detected:
            first.setdefault("river", sample - calm)
        if frouros.status["drift"]:
            first.setdefault("frouros", sample - calm)
    return first


outcome = {calm: delays(calm) for calm in seen}
for calm, delay in outcome.items():
    print(f"{calm} calm samples: samples from the jump to the first signal {delay}")
sys.exit("The behaviour has changed." if outcome != seen else 0)
EOF
