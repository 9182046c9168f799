"""What the fuzzer of the ops must notice. Oracle: a kernel that is wrong on purpose."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from altmin_ext.ops import _native as native
from python_tests.fuzz import ops


class _Faulty:
    """The native module, one of whose ops does something else as well."""

    def __init__(self, op: str, fault: Callable[[Any], None]) -> None:
        def faulty(*arguments: Any) -> None:
            getattr(module, op)(*arguments)
            fault(arguments)

        module = native.module
        self._own = SimpleNamespace(**{op: faulty})
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name, None) or getattr(self._module, name)


def _run_some() -> None:
    for seed in range(60):
        ops.run(seed)


def _is_noticed(monkeypatch: pytest.MonkeyPatch, op: str, fault: Callable[[Any], None], *words: str) -> None:
    monkeypatch.setattr(native, "module", _Faulty(op, fault))
    monkeypatch.setattr(ops.ops, "names", (op,))
    with pytest.raises(AssertionError) as caught:
        _run_some()
    assert any(word in str(caught.value) for word in words), caught.value


def _raise_last(tensor: torch.Tensor) -> None:
    if tensor.numel():
        tensor.view(-1)[-1] += 1e-3


def _write_behind(tensor: torch.Tensor) -> None:
    ctypes.memset(tensor.data_ptr() + tensor.nbytes, 90, 1)


@pytest.mark.parametrize("op", ["relu_prox", "softmax_prox", "activate", "interleave"])
def test_a_wrong_number_is_noticed(monkeypatch: pytest.MonkeyPatch, op: str) -> None:
    place = {"relu_prox": 2, "softmax_prox": 2, "activate": 3, "interleave": 1}[op]
    _is_noticed(monkeypatch, op, lambda arguments: _raise_last(arguments[place]), "exactly")


def test_a_written_input_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    _is_noticed(monkeypatch, "relu_prox", lambda arguments: _raise_last(arguments[1]), "beside its outputs")


def test_a_written_margin_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    _is_noticed(monkeypatch, "relu_prox", lambda arguments: _write_behind(arguments[2]), "beside its outputs")


def test_a_call_that_should_be_refused_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an op that takes whatever it is given, and of one whose refusal is no sentence."""

    class Careless(_Faulty):
        error: Exception | None = None

        def __getattr__(self, name: str) -> Any:
            return self.take if name == "interleave" else super().__getattr__(name)

        def take(self, *arguments: Any) -> None:
            try:
                self._module.interleave(*arguments)
            except (TypeError, ValueError):
                if self.error is not None:
                    raise self.error from None

    for error, words in (
        (None, "it was taken"),
        (ValueError("no"), "no sentence"),
        (KeyError("x"), "KeyError"),
    ):
        faulty = Careless("", lambda arguments: None)
        faulty.error = error
        with monkeypatch.context() as patch:
            patch.setattr(native, "module", faulty)
            patch.setattr(ops.ops, "names", ("interleave",))
            with pytest.raises(AssertionError, match=words):
                _run_some()
