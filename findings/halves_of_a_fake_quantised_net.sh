#!/usr/bin/env bash
# Guess: torch's fake quantisation and onnxruntime's QuantizeLinear round every half of the scale alike, to
#   even.
# What happens: at the scale 0.1 they differ at 12 of 200 halves: torch multiplies by the rounded 1 / scale,
#   onnxruntime divides.
# Why it matters: a net trained for quantisation and exported has integers that are off by one from those it
#   was trained with, so exact comparisons fail.
# Seen with torch 2.13.0, onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, Python 3.11.
# Date: 2026-11
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/environment/bin/python" - <<'EOF'
import sys
from importlib.metadata import version

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper

print({name: version(name) for name in ("torch", "onnx", "onnxruntime", "numpy")})
scale = np.float32(0.1)
x = ((np.arange(-100, 100) + 0.5) * 0.1).astype(np.float32)

fake = torch.fake_quantize_per_tensor_affine(torch.tensor(x), float(scale), 0, -128, 127).numpy()
in_torch = np.rint(fake / scale).astype(int)

names = {"x": TensorProto.FLOAT, "scale": TensorProto.FLOAT, "zero": TensorProto.INT8}
graph = helper.make_graph(
    [helper.make_node("QuantizeLinear", list(names), ["integers"])],
    "quantise",
    [helper.make_tensor_value_info(name, kind, [200] if name == "x" else []) for name, kind in names.items()],
    [helper.make_tensor_value_info("integers", TensorProto.INT8, [200])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
inputs = {"x": x, "scale": np.array(scale), "zero": np.array(0, np.int8)}
in_onnxruntime = session.run(None, inputs)[0].astype(int)

divided = np.rint(x / scale).astype(int)
differ = int((in_torch != in_onnxruntime).sum())
print("halves where torch and onnxruntime differ:", differ, "of 200")
for value in x[in_torch != in_onnxruntime][:3]:
    print(f"  {value}: torch {in_torch[x == value][0]}, onnxruntime {in_onnxruntime[x == value][0]}")
same = 0 < differ < 40 and np.array_equal(in_onnxruntime, divided) and abs(in_torch - divided).max() == 1
sys.exit(0 if same else "The behaviour has changed.")
EOF
