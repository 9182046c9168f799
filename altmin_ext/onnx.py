"""Models as ONNX files, for ONNX Runtime and whatever else reads that format."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from altmin_ext import _check
from altmin_ext._extras import require
from altmin_ext._files import write_file


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """How :class:`altmin_ext.nn.Elman` and :class:`altmin_ext.NonNegativeFactors` are written in ONNX.

    An Elman layer is ONNX's own operator RNN, whatever the number of time steps; the factors are a loop.

    Returns:
        The ``custom_translation_table`` of ``torch.onnx.export(..., dynamo=True)``.

    Raises:
        ImportError: onnxscript is not installed; get it with the extra ``onnx``.
    """
    require("onnxscript", "onnx")
    from altmin_ext import _onnx_functions  # needs onnxscript, which an import of the library does not

    return {
        torch.ops.altmin_ext.elman.default: _onnx_functions.elman,
        torch.ops.altmin_ext.non_negative_codes.default: _onnx_functions.non_negative_codes,
    }


def export(model: nn.Module, x: Tensor, path: str | os.PathLike[str]) -> None:
    """Write a model to an ONNX file that takes minibatches of any size.

    The model is exported as it evaluates, without dropout and with running statistics. Its input has the name "x",
    its output "logits". The file holds the weights, up to ONNX's limit of 2 GB.

    Args:
        model: any module that ``torch.export`` takes; it is left as it is.
        x: (B, ...), a minibatch, of which the shape of a sample and the dtype matter.
        path: the file to write, for instance "model.onnx"; it gets its name once it is whole.

    Raises:
        ImportError: onnxscript is not installed; get it with the extra ``onnx``.
        TypeError: ``model`` is no module or ``x`` no tensor.
        ValueError: ``x`` holds no sample.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, but is {_check.named_type(model)}.")
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, but is {_check.named_type(x)}.")
    if x.ndim < 1 or x.shape[0] == 0:
        raise ValueError(f"x must be (B, ...) with a sample at least, but has shape {tuple(x.shape)}.")
    table = translations()
    two = x[:1].repeat(2, *[1] * (x.ndim - 1))  # torch would take a minibatch of one for a constant
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        program = torch.onnx.export(
            model, (two,), dynamo=True, verbose=False, custom_translation_table=table,
            dynamic_shapes=({0: torch.export.Dim("batch")},), input_names=["x"], output_names=["logits"],
        )  # fmt: skip
    finally:
        for module in training:
            module.training = True
    assert program is not None  # it is without a file name
    write_file(path, program.model_proto.SerializeToString())


__all__ = ["export", "translations"]
