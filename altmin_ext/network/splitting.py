"""Finds the stages of a model."""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from altmin_ext._check import named_type
from altmin_ext.network.chain import PreMap
from altmin_ext.network.formulas import formula_of
from altmin_ext.network.known import alteration, described, hook_tables, known_as, runs_as, uncompiled
from altmin_ext.network.maps import LinearMap, LocalMap, Map, map_of
from altmin_ext.network.pieces import LocalPiece, Piece, batch_normalisations, piece_of
from altmin_ext.nn import Stage
from altmin_ext.parallel.ranks import Ranks

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
        pre, map: its two parts.
        beyond_kernels: what its first module is that the kernels of Linear stages do not compute; "" if the
            stage is a Linear behind an activation.
    """

    name: str
    pre: PreMap
    map: Map
    beyond_kernels: str = ""

    @property
    def calls_modules(self) -> bool:
        """Whether an evaluation runs modules whose code may raise anything at any time."""
        return self.pre.calls_modules or self.map.calls_modules

    def commit(self) -> None:
        """Update what depends on the encode, such as running statistics."""
        self.pre.commit()
        self.map.commit()

    def share(self, ranks: Ranks) -> None:
        """Evaluate the samples of one rank, see :meth:`Piece.share`.

        Args:
            ranks: that share the minibatches.

        Raises:
            ValueError: a module needs all samples at once.
        """
        self.pre.share(ranks)
        self.map.share(ranks)

    def output_shape(self, shape: torch.Size, like: Tensor) -> torch.Size:
        """Find the shape of a sample's code.

        Args:
            shape: of a sample's code below, or of a sample of x.
            like: a tensor of the model's dtype and device.

        Returns:
            The shape.

        Raises:
            TypeError: a module returns something else than one tensor.
            ValueError: the stage cannot take such a sample.
        """
        try:
            return self.map.output_shape(self.pre.output_shape(shape, like))
        except ValueError as error:
            raise ValueError(
                f"x must suit the model, but stage {self.name!r}, given {tuple(shape)} per sample, {error}."
            ) from error


def as_chain(model: nn.Module | Sequence[nn.Module]) -> nn.Module:
    """Make one module of a model: a list of modules becomes an ``nn.Sequential``.

    Args:
        model: a module, or a list or tuple of modules, one behind the other.

    Returns:
        The module itself, or a new ``nn.Sequential`` of the same modules.

    Raises:
        TypeError: ``model`` is neither.
        ValueError: it has no forward.
    """
    if isinstance(model, (list, tuple)):
        for i, module in enumerate(model):
            if not isinstance(module, nn.Module):
                raise TypeError(f"model[{i}] must be a torch.nn.Module, but is {named_type(module)}.")
        return nn.Sequential(*model)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, but is {named_type(model)}.")
    if _has_no_forward(model):
        raise ValueError(
            f"model must be an nn.Sequential, or another module with a forward, but is {named_type(model)}, which "
            "has none; pass a list or an nn.Sequential of its modules."
        )
    return model


def _has_no_forward(module: nn.Module) -> bool:
    return getattr(module.forward, "__func__", None) is nn.Module.forward


def _global_hooks() -> list[dict[int, Any]]:
    """The tables of the hooks that torch runs for every module."""
    module = nn.modules.module
    return [
        module._global_forward_hooks,
        module._global_forward_pre_hooks,
        module._global_backward_hooks,
        module._global_backward_pre_hooks,
    ]


class Unaltered:
    """Watches that the modules of a chain, which a step need not call, go on to compute what they did.

    Args:
        model: as for :func:`split`, by which it has been accepted.
    """

    def __init__(self, model: nn.Module) -> None:
        self._named = [(path, module) for path, module in _watched(model, "") if not alteration(module)]
        self._own = [vars(module) for _, module in self._named]
        self._hooks = [own.get(table, {}) for own in self._own for table in hook_tables] + _global_hooks()

    def check(self) -> None:
        """Raise a ValueError if one has a hook or a forward of its own since; takes less than a microsecond."""
        if not any(self._hooks) and not any(map(operator.contains, self._own, itertools.repeat("forward"))):
            return
        _check_global_hooks()
        path, module = next((path, module) for path, module in self._named if alteration(module))
        raise ValueError(
            f"model must be as it was when the method was made, but {path!r} is {described(module)} since; make a "
            "new method for the model as it is now."
        )


def _watched(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a chain, and those in the containers and blocks among them whose formulas are known."""
    yield path or "model", module
    if (
        runs_as(uncompiled(module), nn.Sequential)
        or runs_as(module, Stage)
        or formula_of(uncompiled(module)) is not None
    ):
        for name, child in uncompiled(module).named_children():
            yield from _watched(child, f"{path}.{name}" if path else name)


def _check_global_hooks() -> None:
    if any(_global_hooks()):
        raise ValueError(
            "model must be free of hooks that torch runs for every module, but there are some, which parts that are "
            "evaluated by formula would not call; remove them by the handles that registered them."
        )


def _check_chain(model: nn.Module) -> None:
    """Raise unless the model is a chain: modules that certainly run one after the other."""
    _check_global_hooks()
    module = uncompiled(model)
    if runs_as(module, nn.Sequential) or runs_as(module, Stage) or not any(True for _ in module.children()):
        return
    if isinstance(module, (nn.Sequential, Stage)) and alteration(module):
        raise ValueError(
            f"model must run its modules one after the other, but is {described(module)}, which may change what it "
            "computes; remove that, or put it on one of the modules inside, which then stay together."
        )
    if isinstance(module, nn.DataParallel):
        raise ValueError(
            f"model must be an nn.Sequential or a list of stages, but is wrapped in {type(module).__name__}; pass "
            "model.module."
        )
    raise ValueError(
        f"model must be an nn.Sequential or a list of stages, but is {named_type(module)}, whose forward can "
        "be anything; write it as an nn.Sequential, with altmin_ext.Stage around what belongs together."
    )


def _leaves(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    module = uncompiled(module)
    if runs_as(module, nn.Sequential):
        # named_children() would leave out repetitions
        for name, child in zip(module._modules, module, strict=True):
            yield from _leaves(child, f"{path}.{name}" if path else name)
    else:
        yield path or type(module).__name__, module


class _Open:
    """The stage to which modules are being added."""

    def __init__(self) -> None:
        self.name = ""
        self.pre: list[tuple[str, nn.Module]] = []
        self.map: list[tuple[str, nn.Module]] = []

    def takes(self, module: nn.Module) -> bool:
        """Whether a module with parameters still belongs to the map: normalisations and at most one other module."""
        return isinstance(module, _normalisations) or all(isinstance(m, _normalisations) for _, m in self.map)

    def close(self, like: Tensor) -> BoundStage:
        """Make the stage of the modules that have been added."""
        modules = [module for _, module in self.map]
        pre = PreMap([piece_of(path, module) for path, module in self.pre])
        map = map_of(modules, _pieces_of_map(self.map), like)
        beyond = [module for module in modules if known_as(module) is not nn.Linear]
        if pre.activation is None:
            beyond += [module for _, module in self.pre if known_as(module) is not nn.Flatten]
        return BoundStage(self.name, pre, map, described(beyond[0]) if beyond else "")


def _pieces_of_map(modules: Leaves) -> list[Piece]:
    """The pieces of a map; a single one if two modules share a parameter, whose gradient is the sum of both."""
    pieces = [piece_of(path, module) for path, module in modules]
    parameters = [id(p) for piece in pieces for p in piece.parameters]
    if len(set(parameters)) < len(parameters):
        return [LocalPiece(nn.Sequential(*(module for _, module in modules)), modules[0][0])]
    return pieces


#: Rules that split certain chains in a special way, and return None for all others.
known_chains: list[Callable[[Leaves], list[BoundStage] | None]] = []


def split(model: nn.Module, needs: Collection[str] = ()) -> list[BoundStage]:
    """Split a chain of modules into stages, the predictor last.

    A module without parameters belongs to the pre-map of the next stage. A module with parameters is the map of its
    own stage, except that normalisations join the map next to them. Pointwise activations, Dropout, Flatten,
    MaxPool2d, Linear, convolutions and batch normalisation have formulas of their own, and so has a block whose
    forward only calls modules and adds, such as a residual one. Any other module that takes one tensor and returns
    one is differentiated by torch within its stage.

    Args:
        model: nested ``nn.Sequential`` of modules; each :class:`altmin_ext.Stage` in it is one stage.
        needs: what the codes must be able to do, see :meth:`Map.lacks`. If the code of a special kind of map cannot
            do it, the module becomes an ordinary stage.

    Returns:
        The stages from the input to the logits.

    Raises:
        ValueError: the model is no chain, has no parameters, or does not end with a map; a module takes or returns
            more than one tensor; or two stages share a parameter.
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
        if runs_as(module, Stage):
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
    """List the modules of a chain in the order of the forward pass, with nested ``nn.Sequential`` flattened.

    Args:
        model: as for :func:`split`.

    Returns:
        (path, module) for every module.

    Raises:
        ValueError: the model is no chain.
    """
    _check_chain(model)
    return list(_leaves(model, ""))


def map_spans(model: nn.Module) -> list[tuple[int, int]]:
    """Find the modules that make up each map of a chain.

    Normalisations belong to the map next to them; between two maps, to the first one.

    Args:
        model: as for :func:`split`.

    Returns:
        For each map, the number of its first module among :func:`leaves`, and one more than that of its last.
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
    """Split a chain into stages at given places.

    Args:
        model: as for :func:`split`.
        starts: the numbers, among :func:`leaves`, of the modules that begin a new stage; increasing, without 0.

    Returns:
        The stages from the input to the logits.

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
        pre = PreMap([piece_of(path, module) for path, module in part[:first]])
        stages.append(BoundStage(part[first][0], pre, LocalMap(_pieces_of_map(part[first:]), like)))
    _check_parameters(stages)
    return stages


def _check_end(rest: _Open) -> None:
    """Raise if a module other than Identity or Flatten follows the last map."""
    for path, module in rest.pre:
        if known_as(module) not in (nn.Identity, nn.Flatten):
            raise ValueError(
                f"model must end with its last map, whose outputs are the logits; remove {path!r} "
                f"({described(module)}) behind it."
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
