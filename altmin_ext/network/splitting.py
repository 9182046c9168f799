"""Finds the stages of a model."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Iterator, Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn

from altmin_ext._check import named_type
from altmin_ext.network.activations import activation_of
from altmin_ext.network.chain import PreMap
from altmin_ext.network.maps import LinearMap, LocalMap, Map
from altmin_ext.network.pieces import (
    AffinePiece,
    DropoutPiece,
    LocalPiece,
    MaxPoolPiece,
    NormalisationPiece,
    Piece,
    PointwisePiece,
    ReshapePiece,
)
from altmin_ext.network.recurrent import ElmanMap, OutputSequenceMap, SequenceMap
from altmin_ext.nn import Elman, Stage
from altmin_ext.ops.activation import identity

_affine = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_normalisations = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_other_normalisations = (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


@dataclasses.dataclass(frozen=True)
class BoundStage:
    """A stage of a model, ready for evaluation.

    Attributes:
        name: the path of the map's first module in the model.
        pre, map: its parts.
        foreign: the kind of a module in it that makes it more than a Linear behind an activation; "" without one.
    """

    name: str
    pre: PreMap
    map: Map
    foreign: str = ""

    @property
    def calls_modules(self) -> bool:
        """Whether to evaluate it is to run modules whose code may raise anything at any time."""
        return self.pre.calls_modules or self.map.calls_modules

    def output_shape(self, shape: torch.Size, like: Tensor) -> torch.Size:
        """The shape of a sample's code, given that of the code below; ValueError if that does not fit."""
        try:
            return self.map.output_shape(self.pre.output_shape(shape, like))
        except ValueError as error:
            raise ValueError(
                f"x must suit the model, but stage {self.name!r}, given {tuple(shape)} per sample, {error}."
            ) from error


def as_chain(model: nn.Module | Sequence[nn.Module]) -> nn.Module:
    """The model as one module: a list of stages becomes an ``nn.Sequential`` of them."""
    if isinstance(model, (list, tuple)):
        for i, module in enumerate(model):
            if not isinstance(module, nn.Module):
                raise TypeError(f"model[{i}] must be a torch.nn.Module, but is {named_type(module)}.")
        return nn.Sequential(*model)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, but is {named_type(model)}.")
    return model


def _is_sequential(module: nn.Module) -> TypeGuard[nn.Sequential]:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _check_chain(model: nn.Module) -> None:
    """Raise unless it is known in which order the model's modules follow each other."""
    if not _is_sequential(model) and not isinstance(model, Stage) and any(True for _ in model.children()):
        raise ValueError(
            f"model must be an nn.Sequential or a list of stages, but is {named_type(model)}, whose forward can "
            "be anything; write it as an nn.Sequential, with altmin_ext.Stage around what belongs together."
        )
    for path, module in _leaves(model, ""):
        if type(module) in _affine and not isinstance(module.weight, nn.Parameter):
            raise ValueError(
                f"model must hold its weights as parameters, but a hook such as weight_norm makes that of {path!r} "
                "of others whenever it is called; remove the hook, for instance by torch.nn.utils.remove_weight_norm."
            )


def _leaves(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    if _is_sequential(module):
        # named_children() leaves repetitions out
        for name, child in zip(module._modules, module, strict=True):
            yield from _leaves(child, f"{path}.{name}" if path else name)
    else:
        yield path or type(module).__name__, module


def _piece(path: str, module: nn.Module) -> Piece:
    """A module as a piece of a stage."""
    activation = activation_of(module)
    if activation is not None:
        return PointwisePiece(activation)
    if type(module) is nn.Dropout:
        return DropoutPiece(module)
    if type(module) is nn.Flatten and module.start_dim == 1:
        return ReshapePiece(module)
    if type(module) is nn.MaxPool2d:
        return MaxPoolPiece(module)
    if isinstance(module, _affine) and type(module) in _affine:
        return AffinePiece(module)
    if isinstance(module, _normalisations) and type(module) in _normalisations:
        return NormalisationPiece(module)
    _check_inputs(path, module)
    return LocalPiece(module)


def _check_inputs(path: str, module: nn.Module) -> None:
    """Raise unless a module can be called with one tensor, and returns one as far as can be known."""
    if isinstance(module, (nn.RNNBase, nn.MultiheadAttention, nn.Transformer)) and (
        type(module).forward.__module__.startswith("torch.")
    ):
        raise ValueError(
            f"model cannot be split at {path!r}: {type(module).__name__} has more than one output or input; "
            "wrap it in a module that takes and returns one tensor."
        )
    if isinstance(module, nn.Embedding):
        raise ValueError(
            f"model cannot be split at {path!r}: Embedding takes integers, and codes are real; embed x beforehand."
        )
    parameters = inspect.signature(module.forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p.name for p in parameters if p.default is p.empty and p.kind in positional]
    if len(required) != 1:
        takes = ", ".join(required) or "nothing"
        raise ValueError(
            f"model cannot be split at {path!r}: {type(module).__name__} takes {takes}, but a part of a chain takes "
            "one tensor and returns one; wrap it in a module that does."
        )


class _Open:
    """The stage that modules are being added to."""

    def __init__(self) -> None:
        self.name = ""
        self.pre: list[tuple[str, nn.Module]] = []
        self.map: list[tuple[str, nn.Module]] = []

    def takes(self, module: nn.Module) -> bool:
        """Whether a module with parameters still belongs to the map: one affine or unknown module, and norms."""
        norm = isinstance(module, _normalisations + _other_normalisations)
        return norm or all(isinstance(m, _normalisations + _other_normalisations) for _, m in self.map)

    def close(self, like: Tensor) -> BoundStage:
        modules = [module for _, module in self.map]
        pieces = [_piece(path, module) for path, module in self.map]
        pre = PreMap([_piece(path, module) for path, module in self.pre])
        strange = [module for module in modules if type(module) is not nn.Linear]
        if pre.activation is None:
            strange += [module for _, module in self.pre if type(module) is not nn.Flatten]
        foreign = type(strange[0]).__name__ if strange else ""
        if len(modules) == 1 and type(modules[0]) is nn.Linear:
            return BoundStage(self.name, pre, LinearMap(modules[0]), foreign)
        return BoundStage(self.name, pre, LocalMap(pieces, like), foreign)


def split(model: nn.Module) -> list[BoundStage]:
    """The stages of a chain of modules, the predictor last.

    A module without parameters belongs to the pre-map of the stage that follows, one with parameters is a map of
    its own, except that normalisations join the map they stand beside. Pointwise activations, Dropout, Flatten,
    MaxPool2d, Linear, convolutions and batch normalisation are known by their formulas; any other module that takes
    one tensor and returns one is differentiated by torch within its stage.

    Args:
        model: nested ``nn.Sequential`` of modules, or of :class:`Stage`, each of which stays as it is.

    Raises:
        ValueError: a module that cannot be split, no parameters at all, something behind the last map, or a parameter
            that two stages share.
    """
    _check_chain(model)
    recurrent = _recurrent(model)
    if recurrent is not None:
        return recurrent
    like = next((p.detach() for p in model.parameters()), torch.empty(0))
    stages: list[BoundStage] = []
    stage = _Open()
    for path, module in _leaves(model, ""):
        if isinstance(module, Stage):
            if stage.map:
                stages.append(stage.close(like))
                stage = _Open()
            stage.name = f"{path}.map"
            stage.pre += list(_leaves(module.pre, f"{path}.pre"))
            stage.map = list(_leaves(module.map, f"{path}.map"))
            stages.append(stage.close(like))
            stage = _Open()
            continue
        is_map = isinstance(module, _normalisations) or any(True for _ in module.parameters())
        if stage.map and not (is_map and stage.takes(module)):
            stages.append(stage.close(like))
            stage = _Open()
        if is_map:
            stage.name = stage.name or path
            stage.map.append((path, module))
        else:
            stage.pre.append((path, module))
    if stage.map:
        stages.append(stage.close(like))
        stage = _Open()
    if not stages:
        raise ValueError(
            f"model must hold at least one module with parameters, such as Linear, but {type(model).__name__} "
            "holds none."
        )
    _check_end(stage)
    _check_parameters(stages)
    return stages


def leaves(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules of a chain in the order of the forward pass, nested ``nn.Sequential`` flattened, with their paths.

    Raises:
        ValueError: the model is no chain.
    """
    _check_chain(model)
    return list(_leaves(model, ""))


def map_spans(model: nn.Module) -> list[tuple[int, int]]:
    """Which of its :func:`leaves` each map of a chain takes up, the first one and the one behind the last.

    Normalisations belong to the map beside them, the one in front where there are two.
    """
    spans: list[tuple[int, int]] = []
    start: int | None = None  # of the normalisations in front of a map to come
    behind_map = False
    for i, (_, module) in enumerate(leaves(model)):
        is_norm = isinstance(module, _normalisations + _other_normalisations)
        if is_norm and behind_map:
            spans[-1] = spans[-1][0], i + 1
        elif is_norm:
            start = i if start is None else start
        else:
            behind_map = any(True for _ in module.parameters())
            if behind_map:
                spans.append((i if start is None else start, i + 1))
            start = None
    return spans


def split_at(model: nn.Module, starts: Sequence[int]) -> list[BoundStage]:
    """Any sub-networks of a chain as its stages.

    Args:
        model: as in :func:`split`.
        starts: numbers of those :func:`leaves` that a new stage begins with, in increasing order; not 0.

    Raises:
        ValueError: a module that takes or returns more than one tensor, a stage without parameters, or a parameter
            that two stages share.
    """
    modules = leaves(model)
    like = next((p.detach() for p in model.parameters()), torch.empty(0))
    stages = []
    for start, end in itertools.pairwise([0, *starts, len(modules)]):
        part = modules[start:end]
        acts = [any(True for _ in m.parameters()) or isinstance(m, _normalisations) for _, m in part]
        if not any(any(True for _ in m.parameters()) for _, m in part):
            paths = ", ".join(repr(path) for path, _ in part)
            raise ValueError(f"every part of the model must hold parameters, but {paths} holds none.")
        first = acts.index(True)
        pre, map = ([_piece(path, module) for path, module in side] for side in (part[:first], part[first:]))
        parameters = [id(p) for piece in map for p in piece.parameters]
        if len(set(parameters)) < len(parameters):  # one that is used twice has one gradient
            map = [LocalPiece(nn.Sequential(*(module for _, module in part[first:])))]
        stages.append(BoundStage(part[first][0], PreMap(pre), LocalMap(map, like)))
    _check_parameters(stages)
    return stages


def _recurrent(model: nn.Module) -> list[BoundStage] | None:
    """The stages of an Elman layer, an activation, Flatten and Linear, with anything without parameters in front."""
    leaves = list(_leaves(model, ""))
    first = next((i for i, (_, m) in enumerate(leaves) if any(True for _ in m.parameters())), len(leaves))
    if first == len(leaves) or type(leaves[first][1]) is not Elman:
        return None
    (path, elman), *rest = leaves[first:]
    sigma = identity
    if rest and (found := activation_of(rest[0][1])) is not None:
        sigma = found
        rest = rest[1:]
    kinds = [type(module) for _, module in rest]
    if kinds != [nn.Flatten, nn.Linear]:
        return None
    (_, flatten), (end, linear) = rest
    assert isinstance(elman, Elman)
    assert isinstance(flatten, nn.Flatten)
    assert isinstance(linear, nn.Linear)
    stages = [
        BoundStage(path, PreMap([_piece(p, m) for p, m in leaves[:first]]), ElmanMap(elman), "Elman"),
        BoundStage(f"{path}, output", PreMap([PointwisePiece(sigma)]), OutputSequenceMap(sigma, elman)),
        BoundStage(end, PreMap([ReshapePiece(flatten)]), SequenceMap(linear)),
    ]
    _check_parameters(stages)
    return stages


def _check_end(rest: _Open) -> None:
    """Raise if something that acts stands behind the last map."""
    for path, module in rest.pre:
        if not isinstance(module, (nn.Identity, nn.Flatten)):
            raise ValueError(
                f"model must end with its last map, whose outputs are the logits; remove {path!r} ({module}) "
                "behind it."
            )


def _check_parameters(stages: Sequence[BoundStage]) -> None:
    owners: dict[int, str] = {}
    for stage in stages:
        for parameter in stage.map.parameters:
            if id(parameter) in owners:
                raise ValueError(
                    f"stages {owners[id(parameter)]!r} and {stage.name!r} share a parameter; "
                    "give each stage a parameter of its own."
                )
            if not parameter.is_contiguous():
                raise ValueError(f"a parameter of stage {stage.name!r} must be contiguous.")
        owners |= dict.fromkeys(map(id, stage.map.parameters), stage.name)
    for below, stage in itertools.pairwise(stages):
        one, other = below.map, stage.map
        if not isinstance(one, LinearMap) or not isinstance(other, LinearMap) or not stage.pre.keeps_shape:
            continue
        if one.n_out != other.n_in:
            raise ValueError(
                f"stage {stage.name!r} takes {other.n_in} features, but stage {below.name!r} below it gives "
                f"{one.n_out}."
            )
