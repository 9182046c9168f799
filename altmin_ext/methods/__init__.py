"""The training methods, one file each; :func:`make_method` finds them by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from altmin_ext import _check
from altmin_ext._words import plain_spelling
from altmin_ext.errors import unknown_name
from altmin_ext.losses import LossLike
from altmin_ext.methods._options import other_words, unsupported
from altmin_ext.methods.am_mem import AMMem
from altmin_ext.methods.backprop import BackpropAdam, BackpropSGD
from altmin_ext.methods.base import Method, MethodOptions, StepReport
from altmin_ext.methods.block_admm import BlockADMM
from altmin_ext.methods.deepfacto import DeepFacto
from altmin_ext.methods.difference_target import DifferenceTarget
from altmin_ext.methods.discriminant import NCM, SLDA
from altmin_ext.methods.dladmm import DLADMM
from altmin_ext.methods.mdlam import MDLAM
from altmin_ext.methods.offline import AMAdamOff, AMMemOff
from altmin_ext.methods.online_am import AMSGD, AMAdam
from altmin_ext.methods.recursive_least_squares import RLS
from altmin_ext.methods.straight_through import StraightThrough
from altmin_ext.methods.taylor_admm import TaylorADMM
from altmin_ext.network import as_chain
from altmin_ext.updates import merge_memories

_methods: dict[str, type[Method]] = {
    cls.name: cls
    for cls in (
        AMSGD,
        AMAdam,
        AMMem,
        AMAdamOff,
        AMMemOff,
        DifferenceTarget,
        BlockADMM,
        TaylorADMM,
        DeepFacto,
        RLS,
        SLDA,
        NCM,
        MDLAM,
        DLADMM,
        StraightThrough,
        BackpropSGD,
        BackpropAdam,
    )
}

# The arguments of train and make_method; no method has an option of these names.
_arguments = (
    "method", "epochs", "steps", "batch_size", "shuffle", "validation", "validation_fraction", "loss", "seed",
    "device", "progress", "callbacks", "lr_schedule", "checkpoint", "checkpoint_every", "keep", "resume",
    "metrics", "on_nonfinite", "graph", "parallel",
)  # fmt: skip


def names() -> list[str]:
    """The names that ``method=`` takes."""
    return list(_methods)


def method_class(name: str) -> type[Method]:
    """Find the class of a method.

    Args:
        name: one of :func:`names`.

    Returns:
        The class; its ``Options`` is the dataclass of the method's options.

    Raises:
        TypeError, ValueError: there is no method of that name.
    """
    return _methods[_check.known("method", name, _methods)]


def option_names(name: str) -> list[str]:
    """The names of a method's options."""
    return [field.name for field in dataclasses.fields(method_class(name).Options)]


def explains(key: str) -> bool:
    """Whether :func:`unknown_option` knows more about a word than the names similar to it."""
    spelling = plain_spelling(key)
    listed = spelling in other_words or spelling in unsupported
    return listed or any(key in option_names(name) for name in _methods)


def unknown_option(name: str, key: str) -> ValueError:
    """The error for an option that the method ``name`` does not have: its name here, or the methods that have it."""
    spelling = plain_spelling(key)
    if spelling in unsupported:
        return ValueError(f"unknown option of {name!r}: {key!r}: {unsupported[spelling]}.")
    if key in _arguments:
        return ValueError(f"unknown option of {name!r}: {key!r}: it is an argument of altmin_ext.train.")
    spelled = {plain_spelling(word): word for word in (*option_names(name), *_arguments)}
    for word in (spelling, *map(plain_spelling, other_words.get(spelling, ()))):
        if word in spelled:
            return ValueError(f"unknown option of {name!r}: {key!r}: it is called {spelled[word]!r} here.")
    having = [other for other in _methods if key in option_names(other)]
    if having:
        return ValueError(
            f"unknown option of {name!r}: {key!r} is one of {', '.join(having)}; those of {name!r} are "
            f"{', '.join(option_names(name))}."
        )
    return unknown_name(f"option of {name!r}:", key, option_names(name), similar=_arguments)


def make_method(
    name: str,
    model: nn.Module | Sequence[nn.Module],
    *,
    loss: LossLike | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    on_nonfinite: str = "raise",
    graph: bool = False,
    parallel: str | None = None,
    **options: Any,
) -> Method:
    """Bind a training method to a model, for step-wise use.

    Args:
        name: one of :func:`names`.
        model: an ``nn.Sequential`` (nesting allowed) or a list of modules such as :class:`altmin_ext.Stage`, one
            behind the other; trained in place.
        loss: one of :func:`altmin_ext.losses.names`; a torch criterion; or any function (logits, y) -> scalar mean
            over the minibatch. Criteria and functions are differentiated at the logits alone, see
            :class:`altmin_ext.losses.Criterion`. None for the method's default: "hinge" for ``admm``, else
            "cross_entropy".
        seed: of the method's own random numbers; torch's global generator is not used.
        device: where to train; None keeps the model where it is.
        on_nonfinite: what to do when a code or weight is not finite:

            - "raise" a DivergenceError;
            - "skip" the minibatch;
            - "restore" a copy of model and method that was made some steps before, halve every learning rate for the
              rest of the run (``relaxation`` where there is none, and ``lr_codes``, too, if it is a number), and go
              on with the next minibatch. ``method.restores`` counts. A minibatch that itself holds NaN or Inf, or a
              label outside the classes, is skipped as with "skip", since a restore would not help.

            Copies are made before the first step and after every tenth more steps, at least 100 (10 where a step
            takes the whole training set) and at most 1000. The last two are kept, in memory and in the method's
            state. If the method diverges again before the next copy, the older one is restored. After ten restores
            without a new copy in between, the next divergence is a DivergenceError, with the copy restored. On a GPU,
            "restore" waits for every step. Methods without a learning rate (``rls``, ``slda``, ``ncm``) refuse it.
        graph: on a GPU, capture a step for every shape of minibatch as a CUDA graph and replay it, so that the host
            need not launch the kernels one by one. Model and options must be such that all steps run the same
            kernels.
        parallel: "data" to share every minibatch among the processes of torch's default process group, see
            :mod:`altmin_ext.parallel`; ``step`` then takes this process's samples of it. None to train alone.
        **options: the method's options; see the ``Options`` class of the method.

    Returns:
        The method, ready for ``method.step(x, y)``.

    Raises:
        TypeError, ValueError: an argument is wrong; the model is unchanged.

    Examples:
        >>> import torch, altmin_ext
        >>> from altmin_ext import models
        >>> method = altmin_ext.make_method("am-adam", models.mlp(4, [16], 2), lr=0.01)
        >>> method.name, method.options.lr, method.options.mu
        ('am-adam', 0.01, 0.5)
        >>> altmin_ext.make_method("am-adam", models.mlp(4, [16], 2), learning_rate=0.01)
        Traceback (most recent call last):
        ValueError: unknown option of 'am-adam': 'learning_rate': it is called 'lr' here.
    """
    cls = method_class(name)
    known = option_names(name)
    for key in options:
        if key not in known:
            raise unknown_option(name, key)
    return cls(
        as_chain(model),
        cls.Options(**options),
        loss=loss,
        seed=seed,
        device=device,
        on_nonfinite=on_nonfinite,
        graph=graph,
        parallel=parallel,
    )


__all__ = ["Method", "MethodOptions", "StepReport", "make_method", "merge_memories", "method_class", "names"]
