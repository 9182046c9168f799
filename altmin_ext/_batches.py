"""Turns every accepted form of data into passes over checked minibatches, for training and evaluation."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from altmin_ext import _check
from altmin_ext import data as known_data
from altmin_ext._generators import torch_kept
from altmin_ext._order import DataOrder
from altmin_ext._progress import Listed, Progress, Replayed, Stateful, is_stateful
from altmin_ext.losses import Loss
from altmin_ext.parallel import Ranks

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Samples(NamedTuple):
    """A whole data set in memory: x (N, ...), y (N,) or (N, C)."""

    x: Tensor
    y: Tensor


def read(source: Any, part: Literal["train", "test"]) -> Samples | Dataset[Any] | Iterable[Any]:
    """Read data: all samples if ``source`` is in memory, otherwise the Dataset or iterable itself.

    A ``TensorDataset``, and a ``Subset`` of one, are in memory. A subclass of theirs may hand out other samples than
    it holds, so it is asked for them like any other Dataset.

    Args:
        source: (x, y) tensors, ndarrays or tables, also as a dict; a torch ``Dataset`` or what has its methods, a
            ``DataLoader``, an iterable of (x, y) batches, a :class:`altmin_ext.data.DataSet` or the name of one.
        part: which part of a :class:`altmin_ext.data.DataSet`.

    Raises:
        TypeError: ``source`` is none of these.
        ValueError: there is no data set of that name; or x and y have different lengths, or are empty.
    """
    if isinstance(source, str):
        source = known_data.load(source)
    if isinstance(source, known_data.DataSet):
        source = getattr(source, part)
    tensors = _tensors_of(source)
    if tensors is not None:
        if len(tensors) != 2:
            raise ValueError(f"a TensorDataset must hold two tensors, x and y, but holds {len(tensors)}.")
        source = tensors
    if _is_named_pair(source):
        source = source["x"], source["y"]
    if isinstance(source, (tuple, list)) and _is_pair(source):
        if len(source) != 2:
            raise ValueError(f"(x, y) must have two items, but has {len(source)}.")
        x, y = _to_tensor("x", source[0]), _to_tensor("y", source[1])
        _check.samples(x, y, "N")
        _check_floating(x)
        return Samples(x, y)
    if isinstance(source, Mapping):
        parts = [name for name, part in source.items() if _is_dataset(part)]
        remedy = f"one part, as in data[{parts[0]!r}]" if parts else "the two that are x and y"
        raise TypeError(f"data must be (x, y), but is {_described(source)}; pass {remedy}.")
    if _is_table(source):
        raise TypeError(
            f"data must be (x, y), but is {_described(source)}; pass the columns of x and that of y, as in "
            "(data[names], data[name])."
        )
    if (_is_dataset(source) or isinstance(source, Iterable)) and not isinstance(source, (Tensor, np.ndarray)):
        return source
    raise TypeError(
        "data must be (x, y), a torch Dataset or DataLoader, a DataSet of altmin_ext.data or its name, or an "
        f"iterable of (x, y) batches, but is {_check.named_type(source)}."
    )


def read_inputs(x: Any) -> Tensor:
    """The inputs of samples in memory, (N, ...) floating point.

    Raises:
        TypeError, ValueError: x is something else.
    """
    inputs = _to_tensor("x", x)
    if inputs.ndim < 2:
        raise ValueError(
            f"x must be (N, ...) with at least two dimensions, but has shape {tuple(inputs.shape)}."
        )
    _check_floating(inputs)
    return inputs


def _tensors_of(source: Any) -> tuple[Tensor, ...] | None:
    """The tensors of a data set whose samples are certainly their entries; None for any other object."""
    if type(source) is TensorDataset:
        return source.tensors
    if type(source) is not Subset:
        return None
    tensors = _tensors_of(source.dataset)
    if tensors is None:
        return None
    rows = torch.tensor([_sample_number(i) for i in source.indices], dtype=torch.int64)
    try:
        return tuple(tensor[rows] for tensor in tensors)
    except IndexError as error:
        raise ValueError(f"a Subset must hold numbers of samples, but {error}.") from error


def _sample_number(value: Any) -> int:
    # A mask is refused: its entries would be taken for the numbers 0 and 1.
    try:
        if isinstance(value, (bool, np.bool_)) or (isinstance(value, Tensor) and value.dtype == torch.bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(
            f"a Subset must hold numbers of samples, but holds {_check.shown(value)}; numpy.flatnonzero makes them "
            "of a mask."
        ) from None


def _is_pair(source: tuple[Any, ...] | list[Any]) -> bool:
    """Whether this is meant to be (x, y), and not a sequence of minibatches."""
    if any(_is_array(item) for item in source):
        return True
    batches = [item for item in source if isinstance(item, Mapping) or any(map(_is_array, _items(item)))]
    return len(source) == 2 and not batches


def _is_named_pair(source: Any) -> bool:
    """Whether this is (x, y) by name: one sort of samples that data sets with named columns hand out."""
    return isinstance(source, Mapping) and set(source) == {"x", "y"}


def _pair_by_name(batch: Mapping[str, Any]) -> tuple[Any, Any]:
    for name, value in batch.items():
        if isinstance(value, list):  # what a DataLoader makes of samples that are lists
            raise TypeError(
                f"data must yield tensors, but its {name!r} is a list; let it yield them, as Hugging Face's data "
                "sets do after data.with_format('torch')."
            )
    return batch["x"], batch["y"]


def _is_dataset(source: Any) -> TypeGuard[Dataset[Any]]:
    """Whether torch's DataLoader takes samples from this: a Dataset, or what only has the methods of one."""
    methods = {
        name for name in ("__getitem__", "__getitems__", "__len__", "__iter__") if hasattr(source, name)
    }
    # Of what can be iterated over, only the method for many samples at once tells that samples are meant.
    return isinstance(source, Dataset) or methods == {"__getitem__", "__len__"} or "__getitems__" in methods


def _items(value: Any) -> Iterable[Any]:
    return value if isinstance(value, (tuple, list)) else ()


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__")  # tensors, too, and tables


def _is_table(value: Any) -> bool:
    """Whether this is a DataFrame or Series, of pandas, polars, or any library that follows them."""
    return hasattr(value, "to_numpy")


def _described(value: Any) -> str:
    """What a user has passed instead of (x, y): its type, with its keys or length."""
    kind = _check.named_type(value)
    if isinstance(value, Mapping):
        return f"{kind} with the keys {', '.join(repr(key) for key in list(value)[:8])}"
    return f"{kind} of {len(value)}" if isinstance(value, (tuple, list)) else kind


def _to_tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        if value.is_meta:
            raise ValueError(f"{name} must hold numbers, but is on the device 'meta', where no tensor does.")
        return _check.tensor(name, value)
    if _is_table(value):
        value = _numbers_of(name, value)
        # Counts, or yes and no: where a column of floats is beside them, they are floats, too.
        if name == "x" and value.dtype.kind != "f":
            value = value.astype(np.float64)
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes, list, tuple)):
        own = value[:]  # all of a column that is read from a file when it is needed
        if isinstance(own, (Tensor, np.ndarray)):
            return _to_tensor(name, own)
    if not isinstance(value, np.ndarray):
        methods = [method for method in ("toarray", "collect") if hasattr(value, method)]
        remedy = f"{name}.{methods[0]}()" if methods else f"numpy.asarray({name})"
        raise TypeError(
            f"{name} must be a torch.Tensor or a numpy.ndarray, but is {_check.named_type(value)}; make it one, as "
            f"in {remedy}."
        )
    if value.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold numbers, but its dtype is {value.dtype}.")
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(f"{name} must have a value everywhere, but some are masked: fill or drop them.")
    # torch shares memory only with native, writable, positively strided arrays; others are copied.
    native = np.asarray(value).astype(value.dtype.newbyteorder("="), copy=False)
    if native.dtype == np.longdouble:
        native = native.astype(np.float64)
    array = np.require(native, requirements=["C", "W"])
    # NumPy takes a single sample for C-contiguous whatever its stride.
    return torch.from_numpy(array.copy() if min(array.strides, default=0) < 0 else array)


def _numbers_of(name: str, table: Any) -> NDArray[Any]:
    """The numbers of a DataFrame (N, C), or of a Series (N,), in a dtype that holds those of all its columns.

    Where a float is missing it is NaN, as the libraries have it.
    """
    if not hasattr(table, "columns"):
        return _numbers_of_column(name, "", table)
    own = table.iter_columns() if hasattr(table, "iter_columns") else (column for _, column in table.items())
    columns = [_numbers_of_column(name, f"its column {column.name!r} ", column) for column in own]
    return np.column_stack(columns) if columns else np.empty((len(table), 0))


def _numbers_of_column(name: str, where: str, column: Any) -> NDArray[Any]:
    values: NDArray[Any] = np.asarray(column.to_numpy())
    kind = str(getattr(column, "dtype", values.dtype))
    if values.dtype.kind == "f" and "int" in kind.lower():
        raise ValueError(f"{name} must have a value everywhere, but {where}misses some: fill or drop them.")
    if values.dtype.kind not in "biuf":
        remedy = "encode it by numbers" if name == "x" else "number its classes from 0, or use an estimator"
        raise TypeError(f"{name} must hold numbers, but {where}holds {kind}; {remedy}.")
    return values


def _check_floating(x: Tensor) -> None:
    if not x.dtype.is_floating_point:
        remedy = "torch.view_as_real(x)" if x.is_complex() else "x.float() / 255"
        raise TypeError(f"x must be floating point, but is {x.dtype}: convert and scale it, as in {remedy}.")


class Batches:
    """Passes over minibatches (x, y) on the method's device and in its dtype.

    A pass can be left and entered again by another process, see :meth:`state`.

    Args:
        order: of the passes, which counts them; None if the order never changes.

    Attributes:
        order: as passed.
        steps: minibatches in one pass; None if unknown.
        last: samples in the last minibatch of a pass; None if unknown.
        one_shot: whether a second pass is certainly impossible.
        taken: minibatches of the present pass that have been trained on; 0 between two passes.
    """

    steps: int | None = None
    last: int | None = None
    one_shot = False

    def __init__(self, order: DataOrder | None) -> None:
        self.order = order
        self.taken = 0
        self._count = DataOrder() if order is None else order
        self._ended = self._count.passes
        self._enters = False  # whether another process has begun the next pass

    @property
    def _begun(self) -> bool:
        """Whether a pass has begun and is not over: a single assignment decides on it, whatever interrupts."""
        return self._count.passes != self._ended

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass; the rest of one if that was entered by :meth:`load`."""
        enters, self._enters = self._enters, False
        if not enters:
            self.taken = 0
        return self._pass(enters)

    def _pass(self, enters: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """The minibatches of one pass, or those after the first ``taken`` ones; counts a pass that it begins."""
        raise NotImplementedError

    def completed(self) -> None:
        """The minibatch that was handed out last has been trained on."""
        self.taken += 1
        self._note()

    def end(self) -> None:
        """The pass is over, if one has begun, and the next one is another."""
        if self._begun:
            self._ended, self.taken = self._count.passes, 0
            self._note()

    def _note(self) -> None:
        """Note what :meth:`state` needs to know of this moment, which is between two minibatches."""

    def check_kept(self) -> None:
        """Raise a ValueError if another process could not go on within a pass."""

    def keep(self, modules: list[Any]) -> None:
        """From now on, note what :meth:`state` needs; ``modules`` are the generators that the model holds."""

    def state(self) -> dict[str, Any]:
        """Where the passes stand, as of the last completed minibatch; only after :meth:`keep`."""
        return {"begun": self._begun, "taken": self.taken, "passes": self._count.passes}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state` stood: the next pass is the rest of that one if it had begun."""
        self._enters, self.taken, self._count.passes = state["begun"], state["taken"], state["passes"]
        self._ended = self._count.passes - self._enters


class MemoryBatches(Batches):
    """Minibatches of data held as two tensors, gathered by index.

    Args:
        x, y: the whole data set, in the final dtype and on the final device; read, never written.
        batch_size: samples in a minibatch; the last one of a pass may be smaller.
        order: gives a new order to every pass; None keeps the order.
        ranks: among which every minibatch is dealt out; None for one process by itself.

    Attributes:
        rows: (B,) int64, the numbers of the samples in the last minibatch, of this rank's where there are several.
    """

    def __init__(
        self, x: Tensor, y: Tensor, batch_size: int, order: DataOrder | None, ranks: Ranks | None = None
    ) -> None:
        super().__init__(order)
        self._ranks = ranks
        self.x = x
        self.y = y
        self.batch_size = batch_size
        self.steps = -(-len(x) // batch_size)
        self.last = len(x) - (self.steps - 1) * batch_size
        self.rows = torch.empty(0, dtype=torch.int64)

    def _pass(self, enters: bool) -> Iterator[tuple[Tensor, Tensor]]:
        if not enters:
            self._count.passes += 1
        places = range(self.taken * self.batch_size, len(self.x), self.batch_size)
        if self.order is None:
            every = torch.arange(len(self.x), device=self.x.device)
            for place in places:
                own = self._dealt_out(place)
                self.rows = every[own]
                yield self.x[own], self.y[own]
            return
        # Drawn on the CPU, so that every device sees the same order.
        order = self.order.permutation(len(self.x)).to(self.x.device)
        for place in places:
            self.rows = rows = order[self._dealt_out(place)]
            # Twice as fast as x[rows], which indexes element by element.
            yield self.x.index_select(0, rows), self.y.index_select(0, rows)

    def _dealt_out(self, place: int) -> slice:
        """The places in the pass of the minibatch that begins at one, or of this rank's share of it."""
        end = min(place + self.batch_size, len(self.x))
        if self._ranks is None:
            return slice(place, end)
        share = self._ranks.share(end - place)
        return slice(place + share.start, place + share.stop)


class StreamBatches(Batches):
    """The minibatches of an iterable, checked and converted one by one.

    Args:
        source: yields (x, y).
        dtype, device: of the model.
        order: numbers the passes, so that ``generator`` is seeded for each; None if nothing is drawn.
        generator: of a DataLoader's order, or of seeds for the workers of one that has no generator.
        ranks: that share minibatches; None for one process by itself.
    """

    def __init__(
        self,
        source: Iterable[Any],
        dtype: torch.dtype,
        device: torch.device,
        order: DataOrder | None = None,
        generator: torch.Generator | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__(order)
        self._ranks = ranks
        self.source = source
        self.dtype = dtype
        self.device = device
        self.generator = generator or torch.Generator()
        # Only a DataLoader hands out new tensors each time. Another iterable may refill pinned memory too early.
        self.overlaps = isinstance(source, DataLoader)
        # Generators, zip, map, endless, ...: nothing that starts anew.
        iterators = ("builtins", "itertools", "altmin_ext.data.streams")
        self.one_shot = isinstance(source, Iterator) and type(source).__module__ in iterators
        try:
            self.steps = len(source)  # type: ignore[arg-type]
        except TypeError:  # no length, or a DataLoader over data without one
            self.steps = None
        sampler = source.batch_sampler if isinstance(source, DataLoader) else None
        self._is_dealt_out = isinstance(sampler, _DealtOut)
        if isinstance(sampler, _DealtOut):
            sampler = sampler.batches
        if type(sampler) is BatchSampler and self.steps:
            batch, samples = sampler.batch_size, len(sampler.sampler)  # type: ignore[arg-type]
            self.last = batch if sampler.drop_last else samples - (self.steps - 1) * batch
        self._progress = _progress_of(source)

    def _pass(self, enters: bool) -> Iterator[tuple[Tensor, Tensor]]:
        if enters and self._progress is not None:
            batches = self._progress.enter(self._started, self.taken)
        else:
            if self._progress is not None:
                self._progress.begin()
            self._count.passes += 1
            batches = self._started()
        for batch in batches:
            if _is_named_pair(batch):
                batch = _pair_by_name(batch)
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                names = ", under these names" if isinstance(batch, Mapping) else ""
                raise TypeError(
                    f"data must yield (x, y) batches, but yielded {_described(batch)}; let it yield the two that are "
                    f"x and y{names}."
                )
            x, y = _to_tensor("x", batch[0]), _to_tensor("y", batch[1])
            _check_floating(x)
            _check.samples(x, y)
            yield (
                x.to(self.device, self.dtype, non_blocking=self.overlaps),
                _converted_targets(y, self.dtype, self.device, self.overlaps),
            )

    def _started(self) -> Iterator[Any]:
        """The iterator. A DataLoader draws a seed for its workers, which must not move torch's global generator.

        What its sampler draws there is the user's own shuffling; with workers it is drawn at the same moment.
        """
        source = self.source
        if self.order is not None:
            self.generator.manual_seed(self.order.seed_of_pass())
        if not isinstance(source, DataLoader) or source.generator is not None:
            return iter(source)
        in_order = type(source.sampler) is SequentialSampler or isinstance(source.dataset, IterableDataset)
        if source.num_workers > 0 and not in_order:
            return iter(source)
        with torch_kept():
            if source.num_workers > 0 and self.order is not None:
                drawn = torch.randint(2**62, (), generator=self.generator) ^ torch.randint(2**62, ())
                torch.default_generator.manual_seed(int(drawn))
            return iter(source)

    def check_kept(self) -> None:
        if self._ranks is not None and not self._is_dealt_out:
            raise ValueError(
                "data must be tensors or a Dataset where ranks share minibatches and a checkpoint is written, but is "
                f"{_check.named_type(self.source)}, of which each rank has another: pass these, or no checkpoint."
            )
        if self._progress is None:
            raise ValueError(
                f"data must be able to go on where a checkpoint stands, but {_check.named_type(self.source)} cannot: "
                "pass tensors, a Dataset, a DataLoader or a list of batches, or give it the methods state_dict() and "
                "load_state_dict(state)."
            )
        self._progress.check()

    def keep(self, modules: list[Any]) -> None:
        if self._progress is not None:
            self._progress.keep(modules)

    def _note(self) -> None:
        if self._progress is not None:
            self._progress.note()

    def state(self) -> dict[str, Any]:
        assert self._progress is not None
        return {**super().state(), "source": self._progress.state(self._begun)}

    def load(self, state: Mapping[str, Any]) -> None:
        assert self._progress is not None
        self._progress.load(state["source"], state["begun"])  # first, as a source may refuse its state
        super().load(state)


def _progress_of(source: Iterable[Any]) -> Progress | None:
    """How to leave and enter a pass over an iterable; None if there is no way."""
    if isinstance(source, DataLoader):
        # A loader with a state that is resumed twice loses samples of data without one (torchdata 0.11).
        streams = isinstance(source.dataset, IterableDataset) and not is_stateful(source.dataset)
        return Stateful(source) if is_stateful(source) and not streams else Replayed(source)
    if is_stateful(source):
        return Stateful(source)
    return Listed() if isinstance(source, (list, tuple)) else None


def make_batches(
    source: Samples | Dataset[Any] | Iterable[Any],
    *,
    loss: Loss,
    dtype: torch.dtype,
    device: torch.device,
    batch_size: int,
    order: DataOrder | None = None,
    shuffle: bool = False,
    ranks: Ranks | None = None,
) -> Batches:
    """Make passes over the result of :func:`read`.

    Args:
        source: the result of :func:`read`.
        loss: checks y, except its values, for data in memory.
        dtype, device: of the model.
        batch_size: samples in a minibatch; without effect on an iterable of batches.
        order: of the passes; None if nothing is drawn.
        shuffle: whether to draw a new order for every pass, except over an iterable.
        ranks: among which minibatches are dealt out; None for one process by itself. A DataLoader, or another
            iterable, yields this rank's share itself.

    Raises:
        TypeError, ValueError: y does not suit the loss, or x is not finite in ``dtype``.
    """
    if isinstance(source, Samples):
        x = source.x.to(device, dtype).contiguous()
        _check.finite("x", x)
        y = loss.check_targets(_converted_targets(source.y, dtype, device), dtype)
        return MemoryBatches(x, y, batch_size, order if shuffle else None, ranks)
    generator = torch.Generator()
    if _is_dataset(source):
        source = _loader(source, batch_size, generator, shuffle, ranks)
    assert isinstance(source, Iterable)
    return StreamBatches(source, dtype, device, order, generator, ranks)


class _DealtOut(Sampler[list[int]]):
    """This rank's share of every minibatch.

    Args:
        batches: the numbers of the samples of each minibatch; the same on all ranks.
        ranks: among which each is dealt out.
    """

    def __init__(self, batches: BatchSampler, ranks: Ranks) -> None:
        self.batches, self._ranks = batches, ranks

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            yield batch[self._ranks.share(len(batch))]

    def __len__(self) -> int:
        return len(self.batches)


def _loader(
    source: Dataset[Any],
    batch_size: int,
    generator: torch.Generator,
    shuffle: bool,
    ranks: Ranks | None = None,
) -> DataLoader[Any]:
    shuffles = shuffle and not isinstance(source, IterableDataset)
    if not isinstance(source, IterableDataset):
        try:
            empty = len(source) == 0  # type: ignore[arg-type]
        except TypeError as error:
            raise TypeError(
                f"data must have a length as a torch Dataset, but {type(source).__name__} has none; define __len__, "
                "or derive it from IterableDataset."
            ) from error
        if empty:
            raise ValueError(f"data must hold at least one sample, but the {type(source).__name__} is empty.")
    own = generator if shuffles else None
    if ranks is not None and not isinstance(source, IterableDataset):
        sampler = RandomSampler(source, generator=own) if shuffles else SequentialSampler(source)  # type: ignore[arg-type]
        dealt_out = _DealtOut(BatchSampler(sampler, batch_size, drop_last=False), ranks)
        return DataLoader(source, batch_sampler=dealt_out, generator=own, collate_fn=_collated)
    return DataLoader(source, batch_size, shuffle=shuffles, generator=own, collate_fn=_collated)


def _collated(samples: list[Any]) -> Any:
    try:
        return default_collate(samples)
    except (RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"data must hold samples that can be stacked to a minibatch, but these cannot: {reason}."
        ) from error


def _converted_targets(y: Tensor, dtype: torch.dtype, device: torch.device, overlaps: bool = False) -> Tensor:
    # Floats get the model's dtype; integers are left to the loss.
    return y.to(device, dtype if y.dtype.is_floating_point else y.dtype, non_blocking=overlaps)
