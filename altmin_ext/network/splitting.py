"""Finds the stages of a model."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TypeAlias, TypeGuard

import torch
from torch import Tensor, nn

from altmin_ext._check import named_type
from altmin_ext.network.chain import PreMap
from altmin_ext.network.maps import LinearMap, LocalMap, Map, map_of
from altmin_ext.network.pieces import LocalPiece, affine, batch_normalisations, piece_of
from altmin_ext.nn import Stage

_normalisations = (
    *batch_normalisations,
    *(nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)

Leaves: TypeAlias = Sequence[tuple[str, nn.Module]]


@dataclasses.dataclass(frozen=True)
class BoundStage:
    """A stage of a model, ready for evaluation.

    Attributes:
        name: the path of the map's first module in the model.
        pre, map: its parts.
        beyond_kernels: the kind of the first module in it that the kernels of Linear stages do not compute, so that
            the stage is more than a Linear behind an activation; "" without one.
    """

    name: str
    pre: PreMap
    map: Map
    beyond_kernels: str = ""

    @property
    def calls_modules(self) -> bool:
        """Whether to evaluate it is to run modules whose code may raise anything at any time."""
        return self.pre.calls_modules or self.map.calls_modules

    def output_shape(self, shape: torch.Size, like: Tensor) -> torch.Size:
        """The shape of a sample's code.

        Args:
            shape: that of the code below, or of a sample of x.
            like: of the model's dtype and device.

        Raises:
            ValueError: the stage cannot take such a sample.
        """
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
        if type(module) in affine and not isinstance(module.weight, nn.Parameter):
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


class _Open:
    """The stage that modules are being added to."""

    def __init__(self) -> None:
        self.name = ""
        self.pre: list[tuple[str, nn.Module]] = []
        self.map: list[tuple[str, nn.Module]] = []

    def takes(self, module: nn.Module) -> bool:
        """Whether a module with parameters still belongs to the map: one affine or unknown module, and norms."""
        return isinstance(module, _normalisations) or all(isinstance(m, _normalisations) for _, m in self.map)

    def close(self, like: Tensor) -> BoundStage:
        """The stage of the modules that have been added."""
        modules = [module for _, module in self.map]
        pre = PreMap([piece_of(path, module) for path, module in self.pre])
        map = map_of(modules, [piece_of(path, module) for path, module in self.map], like)
        beyond = [module for module in modules if type(module) is not nn.Linear]
        if pre.activation is None:
            beyond += [module for _, module in self.pre if type(module) is not nn.Flatten]
        return BoundStage(self.name, pre, map, type(beyond[0]).__name__ if beyond else "")


# Rules that cut certain chains in ways of their own; each returns None for all others.
known_chains: list[Callable[[Leaves], list[BoundStage] | None]] = []


def split(model: nn.Module, needs: Collection[str] = ()) -> list[BoundStage]:
    """The stages of a chain of modules, the predictor last.

    A module without parameters belongs to the pre-map of the stage that follows, one with parameters is a map of
    its own, except that normalisations join the map they stand beside. Pointwise activations, Dropout, Flatten,
    MaxPool2d, Linear, convolutions and batch normalisation are known by their formulas; any other module that takes
    one tensor and returns one is differentiated by torch within its stage.

    Args:
        model: nested ``nn.Sequential`` of modules, or of :class:`Stage`, each of which stays as it is.
        needs: what the codes must be able to do, see :attr:`Map.lacks`. Where a map of a special kind cannot, its
            module is a stage like any other.

    Returns:
        The stages from the input to the logits.

    Raises:
        ValueError: a module that cannot be split, no parameters at all, something behind the last map, or a parameter
            that two stages share.
    """
    _check_chain(model)
    for rule in known_chains:
        special = rule(leaves(model))
        if special is not None and not any(stage.map.lacks & set(needs) for stage in special):
            _check_parameters(special)
            return special
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
        is_map = isinstance(module, batch_normalisations) or any(True for _ in module.parameters())
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
        is_norm = isinstance(module, _normalisations)
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
        acts = [any(True for _ in m.parameters()) or isinstance(m, batch_normalisations) for _, m in part]
        if not any(any(True for _ in m.parameters()) for _, m in part):
            paths = ", ".join(repr(path) for path, _ in part)
            raise ValueError(f"every part of the model must hold parameters, but {paths} holds none.")
        first = acts.index(True)
        pre, map = (
            [piece_of(path, module) for path, module in side] for side in (part[:first], part[first:])
        )
        parameters = [id(p) for piece in map for p in piece.parameters]
        if len(set(parameters)) < len(parameters):  # one that is used twice has one gradient
            map = [LocalPiece(nn.Sequential(*(module for _, module in part[first:])))]
        stages.append(BoundStage(part[first][0], PreMap(pre), LocalMap(map, like)))
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
