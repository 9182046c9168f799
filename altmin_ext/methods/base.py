"""The base of all training methods: a model, options, and a step on one minibatch."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.nn.parameter import is_lazy

from altmin_ext import _check, _state
from altmin_ext._composition import Composition, misplaced
from altmin_ext._guard import Guard, Subject
from altmin_ext._order import DataOrder
from altmin_ext._plan import CapturedSteps, PlannedStep, PlannedSteps, ReplayedSteps
from altmin_ext._restore import Copies
from altmin_ext._state import Entries
from altmin_ext._stream import Stream
from altmin_ext._undo import Buffers, Tensors, Undo, Undoable
from altmin_ext.errors import DivergenceError
from altmin_ext.losses import Loss, LossLike, Weighted, make_loss
from altmin_ext.methods._options import MethodOptions, number
from altmin_ext.network import BoundStage, Unaltered, may_write_input
from altmin_ext.nn.factors import NonNegativeFactors
from altmin_ext.parallel import Ranks, WholeMinibatch, join

Seen = TypeVar("Seen")


@dataclasses.dataclass(frozen=True, slots=True)
class StepReport:
    """The report of one step. All tensors lie on the model's device, and a GPU has not been waited for.

    Attributes:
        loss: 0-d, the mean loss over the minibatch at the logits of the encode, before any update.
        correct: 0-d integer, the number of samples of the minibatch that were classified correctly; None if that has
            no meaning, as with mse.
        objective: (stages,), for every stage (1/B) sum over the minibatch of its local term after the code update and
            before the weight update; None unless ``report_objective=True``. Methods with one objective for codes and
            weights say when they evaluate it.
        displacement: (hidden stages,) float64, the RMS distance over the minibatch that the step has moved each
            stage's codes away from the encode, in the codes' own units; None unless ``report_objective=True``, and
            for methods whose codes are not moved from an encode. For ``dtp`` the codes are the targets.
    """

    loss: Tensor
    correct: Tensor | None
    objective: Tensor | None = None
    displacement: Tensor | None = None

    def copied(self) -> StepReport:
        """A copy of the report, in tensors of its own."""
        return StepReport(
            self.loss.clone(),
            None if self.correct is None else self.correct.clone(),
            None if self.objective is None else self.objective.clone(),
            None if self.displacement is None else self.displacement.clone(),
        )


class Method(abc.ABC):
    """A training method bound to a model.

    Make one by :func:`altmin_ext.make_method`. The model is trained in place: between two steps its ``state_dict()``
    is always an ordinary torch one. Threads may train side by side, each with a method and a model of its own; a step
    of a method refuses to begin while another thread is within one.

    To write a method: :meth:`_cut` splits the model and refuses one that does not suit, before anything has changed;
    :meth:`_allocate` makes the buffers. A step has the following phases, in this order. A method defines
    ``_compute``, and those of the others that it needs:

    1. ``check_batch(x, y)`` refuses a minibatch that does not fit the model;
    2. ``_undoable()`` names the parts that must be restored if the step fails later; their state is saved;
    3. ``_prepare(x, y)`` makes buffers for the shape of the minibatch, and refreshes scalars, such as learning rates,
       in the blocks that kernels read; it may refuse the minibatch, too;
    4. ``_compute(x, y)`` does the arithmetic in the paper's order and returns the report. If something is not finite,
       it raises a flag of the guard, and changes nothing from then on;
    5. ``_diverged()`` reads the flags: if one is raised, the step is undone, and becomes an error or is skipped;
    6. ``_commit(batch)`` keeps the results of a successful step other than the weights;
    7. ``_finish()`` does the bookkeeping on the host, such as raising a penalty.

    For a captured method, 4 and 6 are a CUDA graph, and 5 waits until :meth:`raise_if_diverged`. If a step fails in
    any way, for instance by an exception in a user's module, model and method are restored bit for bit.

    :meth:`_state` declares what the method keeps between steps; saving, checking, restoring and copying follow from
    it.

    A method can be pickled and copied, alone or together with its model. The copy is made anew for its own model,
    with the options and the state of the first, and goes on to the same bits; CUDA graphs are captured again. The
    copy of a method that shares its minibatches with other ranks trains alone.
    Attributes that describe the last step, such as ``code_step_sizes``, begin anew. ``copy.copy`` makes a second
    method for the same model.

    Args:
        model: trained in place.
        options: an instance of ``Options``.
        loss: as for :func:`altmin_ext.make_method`; None for ``default_loss``.
        seed: of the method's own random numbers.
        device: where to train; None keeps the model where it is.
        on_nonfinite: "raise" a DivergenceError, "skip" the minibatch, or "restore" an earlier state.
        graph: whether to capture steps as CUDA graphs.
        parallel: "data" to share every minibatch with the other ranks; None to train alone.

    Attributes:
        name: the method's name, one of :func:`altmin_ext.methods.names`.
        full_batch: whether a step takes the whole training set.
        per_sample: whether it keeps variables for every sample; a step then needs their numbers:
            ``step(x, y, index)``.
        factorises: whether it trains NonNegativeFactors, also on samples without a label, -1.
        captures: whether its steps can become a CUDA graph: ``_compute`` and ``_commit`` launch the same kernels in
            every step and never read a value on the GPU. See :meth:`Method._why_not_captured`.
        plans: whether its steps on a CPU can be recorded and replayed: ``_compute`` makes the same calls in every
            step. See :attr:`why_not_planned`.
        weighs: whether it takes a :class:`altmin_ext.losses.Weighted`: whatever it sums over samples, it weighs.
        shares: whether it can share a minibatch with other ranks: whatever it sums over samples, it sums over them.
        has_rate: whether ``step_factor`` makes its steps smaller, which ``on_nonfinite="restore"`` needs.
        default_loss: the name of its default loss.
        needs: methods of :class:`altmin_ext.losses.Loss` without a default that its loss must have, such as
            "proximal".
        loss: the :class:`altmin_ext.losses.Loss` at the top of the network.
        ranks: with which it shares minibatches; None where it trains alone.
        model: the module being trained.
        options: the method's options, a frozen dataclass with every value in effect.
        steps: the number of minibatches trained on.
        learning_rate_factor: multiplies every learning rate; :func:`altmin_ext.train` sets it from its
            ``lr_schedule`` at the start of each epoch. 1.0 unless set.
        step_factor: what a step multiplies every learning rate by: ``learning_rate_factor``, halved once for every
            restore.
        restores: how often model and method have gone back to an earlier state because they had diverged; 0 unless
            ``on_nonfinite="restore"``, see :func:`altmin_ext.make_method`.
        data_order: the order in which :func:`altmin_ext.train` goes through data, over several calls.
        n_out: outputs of the model; 0 before the first step if only a trial run can tell.
        objective_rose: whether an objective that must never rise did so; None for methods without such an objective.

    Raises:
        TypeError, ValueError: an argument is wrong, or the method cannot train the model; the model is unchanged.
    """

    name: ClassVar[str]
    full_batch: ClassVar[bool] = False
    per_sample = False
    factorises: ClassVar[bool] = False
    captures: ClassVar[bool] = False
    plans: ClassVar[bool] = False
    weighs: ClassVar[bool] = False
    shares: ClassVar[bool] = False
    has_rate: ClassVar[bool] = True
    default_loss: ClassVar[str] = "cross_entropy"
    needs: ClassVar[tuple[str, ...]] = ()
    objective_rose: bool | None = None
    Options: ClassVar[type[MethodOptions]] = MethodOptions
    #: Entries of the state that a restore leaves as they are: what a run of training sets.
    _of_the_run: ClassVar[tuple[str, ...]] = ("learning_rate_factor", "data_order", "restores")

    def __init__(
        self,
        model: nn.Module,
        options: MethodOptions,
        *,
        loss: LossLike | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        on_nonfinite: str = "raise",
        graph: bool = False,
        parallel: str | None = None,
    ) -> None:
        # Everything is checked before anything changes.
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, but is {_check.named_type(model)}.")
        self.on_nonfinite = _check.choice("on_nonfinite", on_nonfinite, ("raise", "skip", "restore"))
        if self.on_nonfinite == "restore" and not self.has_rate:
            raise ValueError(
                f"on_nonfinite must be 'raise' or 'skip' for {self.name}, which has no learning rate to make "
                "smaller, but is 'restore'."
            )
        self.seed = _check.seed("seed", seed)
        self._graph = _check.boolean("graph", graph)
        where = _check.named_device("device", device)
        _check_wrappers(model)
        if torch.is_inference_mode_enabled():
            raise ValueError(
                "a method must be made outside torch.inference_mode, but is made within, where its buffers could "
                "not be written later; leave the context."
            )
        self.dtype = _check_parameters(model)
        if not self.factorises:
            _check_no_factors(self.name, model)
        if isinstance(loss, Weighted) and not self.weighs:
            raise ValueError(f"loss must count all samples alike for {self.name}, but is a Weighted one.")
        self.loss: Loss = make_loss(
            self.default_loss if loss is None else loss,
            partial=self.factorises,
            needs=self.needs,
            user=self.name,
        )
        self.ranks = join(parallel, self.shares, self.name)
        if self.ranks is not None and isinstance(loss, Weighted):
            raise ValueError("loss must count all samples alike with parallel='data', but is a Weighted one.")
        self.model, self.options = model, options
        # Kept in a list, since walking through the modules would take a notable part of a small step.
        self._parameters = list(model.named_parameters())
        self._stages = self._cut(model)
        self._unaltered = Unaltered(model) if self._stages else None
        if self.ranks is not None:
            self._check_ranks(self.ranks)
        if self._graph:
            self._check_graph(where or self._parameters[0][1].device)
        _check.device("device", where)

        # Reentrant, so that an acquisition that Ctrl-C has left behind never locks out the thread of the next step.
        self._stepping = threading.RLock()
        self.steps, self.n_out, self.learning_rate_factor = 0, 0, 1.0
        self.data_order = DataOrder()
        self._copies = Copies()
        self._copies_x = may_write_input(model)
        self._step_taken = True
        # Reading a flag waits for the GPU: methods that can defer it look for divergence only now and then.
        self._defers_guard = False
        self._looked_after = 0  # the number of steps at the last look
        with self._moved_to(where):
            self.device: torch.device = self._parameters[0][1].device
            self._device_type = self.device.type  # to ask for it takes as long as a check in every step
            self._like = torch.empty(0, dtype=self.dtype, device=self.device)
            for stage in self._stages:
                stage.map.allocate(self._like)
            self.loss = self.loss.to(self.device, self.dtype)
            if self.ranks is not None:
                if not self.full_batch:  # else the losses of samples are summed up
                    self.loss = WholeMinibatch(self.loss, self.ranks)
                self._share_model(self.ranks)
            self._guard = Guard(self._flags(), self.device)
            self._weights = Tensors(p for _, p in self._parameters if p.requires_grad)
            self._buffers = Buffers(model)
            self._composition = Composition(model, formulas=bool(self._stages))
            self._allocate()
        self._replayed = self._new_replays()

    # ------------------------------------------------------------------------------------ how it is made

    def _cut(self, model: nn.Module) -> list[BoundStage]:
        """Split the model into the stages that the method trains; none if it trains the model as a whole.

        Options whose default depends on the model may be completed here; nothing else may change.

        Raises:
            ValueError: the method cannot train the model, or not with these options.
        """
        return []

    def _flags(self) -> Sequence[Subject]:
        """The subjects of the guard's flags, in the order in which they are reported."""
        return ()

    def _allocate(self) -> None:  # noqa: B027  (some methods need nothing)
        """Make the buffers that steps write to. The model is on its device, and nothing is refused any more."""

    def _check_ranks(self, ranks: Ranks) -> None:
        """Raise a ValueError unless all ranks have such a method for such a model."""
        if self._graph:
            raise ValueError(
                "graph must be False with parallel='data', since ranks exchange sums in every step."
            )
        shapes = [(name, tuple(p.shape), str(p.dtype)) for name, p in self.model.state_dict().items()]
        ranks.check_same(
            {
                "method": self.name,
                "options": str(self.options),
                "loss": self.loss.name,
                "seed": str(self.seed),
                "on_nonfinite": self.on_nonfinite,
                "the shapes of the model's parameters and buffers": str(shapes),
            }
        )

    def _share_model(self, ranks: Ranks) -> None:
        """Give every rank the weights and buffers of rank 0."""
        with torch.no_grad():
            for tensor in itertools.chain(self.model.parameters(), self.model.buffers()):
                own = tensor.contiguous()
                ranks.broadcast([own])
                tensor.copy_(own)

    def _why_not_captured(self) -> str | None:
        """The reason, as the end of a sentence, why steps with this model and options cannot be CUDA graphs.

        None if they can. Called only for methods with ``captures``.
        """
        return None

    def _check_graph(self, place: torch.device) -> None:
        """Raise a ValueError unless steps on this device can be captured."""
        reason = f"{self.name} looks at values in every step, which a CUDA graph cannot"
        if place.type != "cuda":
            reason = f"a CUDA graph needs a GPU, and the model trains on {place}"
        elif not self.loss.captured:
            reason = f"the loss {self.loss.name!r} is differentiated by torch, which is not captured"
        elif self.captures:
            reason = self._why_not_captured() or ""
        if reason:
            raise ValueError(f"graph must be False here: {reason}.")

    @contextlib.contextmanager
    def _moved_to(self, device: torch.device | None) -> Iterator[None]:
        """Move the model; if that or the body of the context fails, perhaps for lack of memory, move it back."""
        before = self._parameters[0][1].device
        try:
            if device is not None:
                self.model.to(device)
                named = list(self.model.named_parameters())
                if any(new is not old for (_, new), (_, old) in zip(named, self._parameters, strict=True)):
                    # torch.__future__ has a setting with which moving a model makes new parameters.
                    self._parameters, self._stages = named, self._cut(self.model)
            yield
        except BaseException:
            self.model.to(before)
            raise

    # ------------------------------------------------------------------------------------------- a step

    def step(self, x: Tensor, y: Tensor) -> StepReport:
        """Train on one minibatch.

        Args:
            x: (B, ...), inputs in the model's dtype, on its device; read, never written.
            y: (B,) integer class indices, (B, C) floats for ``loss="mse"``, or the targets of a criterion.

        Returns:
            The :class:`StepReport` of the minibatch, at the weights before this step.

        Raises:
            TypeError, ValueError: the minibatch does not fit the model, or the model has changed since the method was
                made, see :meth:`check_model`; the model is unchanged.
            DivergenceError: a code or a weight is not finite (with ``on_nonfinite="raise"``, or where "restore" has
                not helped); the model keeps the last finite weights. With "raise" on a GPU, where a check would have
                to wait, :meth:`raise_if_diverged` raises it; until then the weights do not move.

        Examples:
            >>> import torch, altmin_ext
            >>> from altmin_ext import models
            >>> method = altmin_ext.make_method("am-adam", models.mlp(4, [16], 2))
            >>> x = torch.randn(30, 4)
            >>> report = method.step(x, (x[:, 0] > 0).long())
            >>> report.loss.shape, 0 <= int(report.correct) <= 30, method.steps
            (torch.Size([]), True, 1)
        """
        planned = self.planned_for(x, y)
        if planned is not None:
            return self._completed(planned, x, y)
        x, y = self.check_batch(x, y)
        if self.ranks is not None:
            self.ranks.begin(x.shape[0])
        with torch.no_grad():
            return self._completed(self._replayed or self._run, x, y)

    def planned_for(self, x: Tensor, y: Tensor) -> PlannedStep[StepReport] | None:
        """Find the plan of a step on this minibatch, if it is the one in use; :meth:`check_batch` is not needed then.

        Args:
            x, y: as for :meth:`step`.

        Returns:
            The plan of the last step, if that was planned and the minibatch is like its; else None.

        Raises:
            ValueError: the model has changed, see :meth:`check_model`.
        """
        planned = self._latest_plan
        if planned is None or not planned.takes(x, y):
            return None
        self._check_surroundings()
        self.check_model()
        return planned if planned.is_in_place else None

    def _completed(self, run: Callable[[Tensor, Tensor], Seen], x: Tensor, y: Tensor) -> Seen:
        """The report of a step on a minibatch that fits the model."""
        self._enter_step()
        try:
            if not self.model.training:
                self.model.train()
            if self.on_nonfinite == "restore":
                self._copies.keep(self)
            parts = () if self._graph else self._undoable()
            report = self._all_or_nothing(run, parts, x, y)
            self.steps += 1
            self._raise_versions()
            if self.on_nonfinite == "restore":
                self._restore_if_diverged(x, y)
            return report
        finally:
            self._stepping.release()

    def _enter_step(self) -> None:
        """Keep other threads from a step of this method, until ``_stepping`` is released."""
        if not self._stepping.acquire(blocking=False):
            raise ValueError(
                "a method must be stepped by one thread at a time, but another thread is within a step of it: make a "
                "method and a model for each thread."
            )

    def _raise_versions(self) -> None:
        # Kernels, CUDA graphs and torch's own batch normalisation write without raising the versions of tensors.
        increment_version(self._weights.tensors)
        if self._buffers:
            increment_version(self._buffers.tensors)

    def learn(self, x: Tensor, y: Tensor, batch_size: int = 1) -> StepReport:
        """Train on a stream of samples: the same as a :meth:`step` on each minibatch, one after the other.

        With a model whose steps are planned (see :attr:`why_not_planned`) on a CPU, all steps are one native call,
        without the interpreter's lock. Ctrl-C ends it between two steps.

        Args:
            x: (N, ...), inputs, as for :meth:`step`, in the order in which they came.
            y: (N, ...), their targets.
            batch_size: samples per step; the last minibatch has what is left.

        Returns:
            A :class:`StepReport` of all steps: ``loss`` and ``correct`` are (steps,), ``objective`` is
            (steps, stages), ``displacement`` is (steps, hidden stages). Each entry is the report of the step at the
            weights before it, so that the losses are those of prequential evaluation: test first, then train.

        Raises:
            TypeError, ValueError: as for :meth:`step`; or the method trains on more than minibatches. Steps that came
                before have been taken.
            DivergenceError: as for :meth:`step`. Steps that came before have been taken.

        Examples:
            >>> import torch, altmin_ext
            >>> from altmin_ext import models
            >>> method = altmin_ext.make_method("am-sgd", models.mlp(4, [16], 2), lr=0.05)
            >>> x = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0))
            >>> report = method.learn(x, (x[:, 0] > 0).long())
            >>> method.steps, report.correct.shape
            (1000, torch.Size([1000]))
            >>> bool(report.correct[500:].double().mean() > 0.8)  # each is predicted, then learned
            True
        """
        if self.ranks is not None:
            raise ValueError(
                "learn must be called for a method that trains alone, but this one has parallel='data': call step "
                "with this rank's samples of each minibatch."
            )
        if self.full_batch or self.per_sample:
            raise ValueError(
                f"learn must be called for a method of minibatches, but {self.name} takes the whole training set or "
                "keeps variables of every sample; call step."
            )
        size = _check.integer("batch_size", batch_size)
        x, y = self.check_batch(x, y)
        return StepReport(*Stream(self, x.contiguous(), y.contiguous(), size).learn())

    def repeat(
        self,
        planned: PlannedStep[StepReport],
        x: Tensor,
        y: Tensor,
        first: int,
        most: int,
        losses: Tensor,
        correct: Tensor,
    ) -> int:
        """Repeat a planned step on minibatches that lie one after the other, in one native call.

        Args:
            planned: the result of :meth:`planned_for` for the first of them.
            x, y: minibatches.
            first: the number of the first one to train on.
            most: how many at most.
            losses, correct: the reports, by the number of the minibatch.

        Returns:
            How many steps have been made. The next one must be a :meth:`step`, which says why if it fails.
        """
        if self._undoable():
            return 0
        self._enter_step()
        try:
            if not self.model.training:
                self.model.train()
            if self.on_nonfinite == "restore":
                most = min(most, self._copies.keep(self))
            size = planned.batch
            self._prepare(x[first * size : (first + 1) * size], y[first * size : (first + 1) * size])
            made = planned.run(x, y, first, most if self._finish_repeats else 1, losses, correct)
            if made:
                self._finish()
                self.steps += made
                self._raise_versions()
            return made
        finally:
            self._stepping.release()

    def _all_or_nothing(
        self, run: Callable[[Tensor, Tensor], Seen], parts: Sequence[Undoable], x: Tensor, y: Tensor
    ) -> Seen:
        """Run phases 3 to 7, where ``run`` does 4 to 6; if the step is not completed, restore the parts."""
        undo = Undo(parts)
        try:
            x, y = self._prepare(x, y)
            report = run(x, y)
            if self._step_taken:
                self._finish()
                return report
        except BaseException:
            self._put_back(undo)
            raise
        self._put_back(undo)
        return report

    def _run(self, x: Tensor, y: Tensor) -> StepReport:
        """Phases 4 to 6, which are captured if steps are CUDA graphs."""
        if self._defers_guard and self.on_nonfinite == "skip":
            self._guard.lower()  # a flag of an earlier step must not stop this one
        report = self._compute(x, y)
        self._step_taken = self._defers_guard or not self._diverged(x, y)
        if self._step_taken:
            self._commit(x.shape[0])  # len() of a tensor is slow
        return report

    def samples(self, x: Tensor) -> int:
        """The number of samples in the minibatch, those of all ranks together.

        Args:
            x: this rank's samples, as for :meth:`step`.

        Returns:
            The number.
        """
        return x.shape[0] if self.ranks is None else self.ranks.samples

    def labelled(self, y: Tensor) -> int | Tensor:
        """The number of samples in the minibatch that have a target, those of all ranks together.

        Args:
            y: this rank's targets, as for :meth:`step`.

        Returns:
            An integer, 0-d if labels may be missing.
        """
        count = self.loss.of_one.labelled(y)
        return count if self.ranks is None else self.ranks.sum(torch.as_tensor(count).clone())

    def _sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all ranks, in place; it is returned."""
        return tensor if self.ranks is None else self.ranks.sum(tensor)

    def _rms_of_all(self, rms: Tensor) -> Tensor:
        """The RMS over the whole minibatch, of that over the samples of each rank."""
        if self.ranks is None:
            return rms
        return (self.ranks.sum(rms.square() * self.ranks.sizes[self.ranks.rank]) / self.ranks.samples).sqrt()

    def _put_back(self, undo: Undo) -> None:
        """Restore everything to its state before a step that is not taken."""
        undo()
        if not self._defers_guard:
            self._guard.lower()

    def _undoable(self) -> Sequence[Undoable]:
        """The parts that a step changes before the last operation that may fail.

        Kernels do not write while a flag is raised. Most methods therefore have nothing to restore, unless a user's
        module runs after the first write.
        """
        return ()

    def _prepare(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Check the minibatch, make buffers and refresh scalars before a step; returns the minibatch to use."""
        return x, y

    @abc.abstractmethod
    def _compute(self, x: Tensor, y: Tensor) -> StepReport:
        """The step's arithmetic."""

    def _commit(self, batch: int) -> None:  # noqa: B027  (most methods keep the weights alone)
        """Keep the results of a successful step other than the weights."""

    def _finish(self) -> None:  # noqa: B027  (most methods keep no books)
        """Do the bookkeeping after a successful step on the host, such as raising a penalty."""

    @property
    def _finish_repeats(self) -> bool:
        """Whether ``_finish`` changes nothing that the next step depends on."""
        return True

    def _new_replays(self) -> ReplayedSteps[StepReport] | None:
        parameters = [parameter for _, parameter in self._parameters]
        if self._graph:
            return CapturedSteps(self._run, self._captured_buffers, self.device, parameters, self._baked)
        if self.why_not_planned is None:
            return PlannedSteps(self, self._plans_commit, parameters, self._baked)
        return None

    @property
    def _latest_plan(self) -> PlannedStep[StepReport] | None:
        return self._replayed.latest if isinstance(self._replayed, PlannedSteps) else None

    @property
    def why_not_planned(self) -> str | None:
        """Why steps are not recorded and replayed by one call, as the end of a sentence; None if they are."""
        if self.ranks is not None:
            return "ranks exchange sums within a step"
        if self.device.type != "cpu":
            return f"the model trains on {self.device}"
        if not self.plans:
            return f"{self.name} calls torch, or looks at values, within a step"
        if not self.loss.captured:
            return f"the loss {self.loss.name!r} is differentiated by torch"
        return self._why_not_planned()

    def _why_not_planned(self) -> str | None:
        """The reason why steps with this model and options cannot be recorded; only for methods with ``plans``."""
        return None

    @property
    def _plans_commit(self) -> bool:
        """Whether ``_commit`` makes the same calls in every step, too, and becomes a part of the plan."""
        return True

    def _baked(self) -> tuple[Any, ...]:
        """What a recorded step depends on, though it may change, such as a rate of dropout."""
        return ()

    def _captured_buffers(self) -> Any:
        """The buffers of a captured step that the method might replace later; the CUDA graph keeps them alive."""
        return None

    # ---------------------------------------------------------------------------------------- divergence

    def raise_if_diverged(self) -> None:
        """Raise a DivergenceError if a step since the last call was not finite and has not been taken.

        Only needed on a GPU, which it waits for. :func:`altmin_ext.train` calls it at the end of each epoch and after
        every thousand steps.
        """
        try:
            if self._defers_guard and self.on_nonfinite == "raise":
                self._diverged()
        finally:
            self._looked_after = self.steps

    @property
    def restores(self) -> int:
        return self._copies.restores

    @property
    def step_factor(self) -> float:
        return self.learning_rate_factor * self._copies.factor

    def _restore_if_diverged(self, x: Tensor, y: Tensor) -> None:
        """Restore a copy if the step on this minibatch was not finite, unless the minibatch itself is not.

        A GPU is waited for.
        """
        diverged = self._diverged(x, y) if self._defers_guard else not self._step_taken
        if diverged and not self._is_at_fault(x, y):
            self._copies.restore(
                self,
                f"{self._sentence_start(self._raised)} at step {self.steps}, and ever smaller steps have not helped; "
                f"x and y are finite, so {self._remedy(self._raised[0])}.",
            )

    def _is_at_fault(self, x: Tensor, y: Tensor) -> bool:
        """Whether the minibatch itself is not finite, so that a restore would not help; it is skipped."""
        at_fault = bool(self._fault(x, y))
        return at_fault if self.ranks is None else self.ranks.count(at_fault) > 0

    def _diverged(self, *batch: Tensor) -> bool:
        """Whether a flag is raised, so that the step must not be taken; an error if ``on_nonfinite="raise"``.

        Args:
            *batch: x and y, if the flag is known to be of this minibatch.
        """
        raised = self._guard.raised()
        if raised is None:
            return False
        self._guard.lower()
        if self.on_nonfinite != "raise":
            self._raised = raised
            return True
        when = f"at step {self.steps + 1}"
        if self._defers_guard:
            when = f"at one of the steps {self._looked_after + 1} to {self.steps}"
        raise DivergenceError(f"{self._sentence_start(raised)} {when}; {self._cause(batch, raised[0])}.")

    def _sentence_start(self, subject: Subject) -> str:
        """What is not finite, as the beginning of a sentence."""
        variable, stage = subject
        where = "" if stage is None else f" of stage {stage + 1} ({self._stages[stage].name!r})"
        return f"the {variable}{where} {'are' if variable == 'weights' else 'is'} not finite"

    def _cause(self, batch: Sequence[Tensor], variable: str) -> str:
        """What is wrong with the minibatch, or what else to do, as the end of a sentence."""
        if batch:
            return self._fault(*batch) or f"x and y are finite, so {self._remedy(variable)}"
        labels = f"outside [0, {self.n_out})" if self.n_out else "out of range"
        return f"check x and y for NaN or Inf and y for labels {labels}, or {self._remedy(variable)}"

    def _fault(self, x: Tensor, y: Tensor) -> str:
        """What is wrong with a minibatch, as the end of a sentence; "" if nothing is."""
        for name, values in zip("xy", (x, y), strict=True):
            if not values.isfinite().all():
                return f"{name} holds NaN or Inf: clean or drop such samples"
        try:
            if self.n_out:  # labels, which kernels on a GPU turn into NaN
                self.loss.check_target_values(y, self.n_out)
        except ValueError as error:
            return str(error).rstrip(".")
        return ""

    def _remedy(self, variable: str) -> str:
        """What to do if a variable is not finite although the data are, as the end of a sentence."""
        return "lower lr"

    # -------------------------------------------------------------------------------------------- checks

    def check_model(self) -> None:
        """Raise a ValueError if the model is no longer made of the modules and parameters that it was made of.

        Layers and parameters must be the same objects, on the same device, with the same dtypes, shapes and
        ``requires_grad``, and attributes of layers such as a stride must not have changed: what the method keeps for
        them, such as moments and gradients, is made once and would not fit any more. Values may have changed, by
        ``load_state_dict()`` for instance, and so may a rate of dropout.
        """
        change = self._composition.change()
        if change is not None:
            raise ValueError(
                f"model must be as it was when the method was made, but {change}: make a new method for the model as "
                "it is now."
            )

    def _check_surroundings(self) -> None:
        """Raise a ValueError if a mode of torch, or a hook, would have the model compute something else in a step."""
        mode = ""
        if torch.is_autocast_enabled(self._device_type):
            mode = "torch.autocast"
        elif torch.is_inference_mode_enabled():
            mode = "torch.inference_mode"
        if mode:
            raise ValueError(
                f"step must be called outside {mode}, but is called within: a step computes in the model's dtype, "
                f"{self.dtype}, with derivatives; leave the context."
            )
        if self._unaltered is not None:
            self._unaltered.check()

    def check_batch(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Check that the method can train on a minibatch.

        Only types, dtypes, devices and shapes are checked; kernels and the divergence guard check the values.

        Args:
            x: the inputs, as for :meth:`step`.
            y: the targets, as for :meth:`step`.

        Returns:
            (x, y) as ordinary tensors that the step may work with: y as the loss takes it, with integers as int64;
            x contiguous, and copied if the model may write to it.

        Raises:
            TypeError: x or y is no tensor, or has a wrong dtype.
            ValueError: x or y is on another device than the model, or has a wrong shape; or the model has changed,
                see :meth:`check_model`.
        """
        self._check_surroundings()
        self.check_model()
        x, y = _check.tensor("x", x), _check.tensor("y", y)
        if x.dtype != self.dtype:
            raise TypeError(f"x must be {self.dtype} like the model, but is {x.dtype}.")
        for name, tensor in (("x", x), ("y", y)):
            if tensor.device != self.device:
                raise ValueError(
                    f"{name} must be on {self.device} like the model, but is on {tensor.device}."
                )
        _check.samples(x, y)
        y = self.loss.check_targets(y, self.dtype)
        return x.clone() if self._copies_x else x.contiguous(), y

    def begin_epoch(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:  # noqa: B027  (most do nothing)
        """Do the method's work on the data before the steps of an epoch.

        Args:
            batches: the minibatches (x, y) of one pass.
        """

    def end_epoch(self) -> None:  # noqa: B027  (a method without an epoch schedule has nothing to do)
        """Do the method's work after an epoch, such as raising a penalty."""

    # -------------------------------------------------------------------------------------------- saving

    def _state(self) -> dict[str, _state.Part]:
        """The entries of :meth:`state_dict`; a subclass adds its own to those of its base."""
        entries: dict[str, _state.Part] = {
            "method": _state.Same(self.name, "the name of this method"),
            "steps": _state.Attribute(self, "steps", _state.count),
            "learning_rate_factor": _state.Attribute(self, "learning_rate_factor", number()),
            "data_order": self.data_order.state(),
        }
        if self.on_nonfinite == "restore":
            entries["restores"] = self._copies.state(self)
        return entries

    def _check_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027  (most entries stand for themselves)
        """Raise a ValueError unless the entries, each of which has been read, fit each other."""

    def _forget_derived(self) -> None:  # noqa: B027  (some methods derive nothing)
        """Forget what was derived from the state before another one was loaded."""

    def state_dict(self) -> dict[str, Any]:
        """The method's own state, such as moments, penalty and step count, without the model's weights.

        Returns:
            A dict of numbers, words, lists and tensors, in memory of its own: later steps do not change it.
        """
        return Entries(self._state()).save()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore an earlier state of the method, of which it makes copies.

        Args:
            state: the result of :meth:`state_dict`, from a method of the same name for a model of the same
                architecture and dtype. Its tensors may be on any device.

        Raises:
            TypeError: the state is no dict, or an entry has a wrong type or dtype; nothing has changed.
            ValueError: the state is of another method, lacks an entry or has one too many, its shapes do not fit, or
                a number cannot be right; nothing has changed.
        """
        self.restoring(state)()

    def restoring(self, state: Mapping[str, Any]) -> Callable[[], None]:
        """Check an earlier state of the method, and copy it, without changing anything yet.

        So a state can be restored together with others, such as the model's, or not at all.

        Args:
            state: as for :meth:`load_state_dict`.

        Returns:
            What restores it. It is called once, before the next step.

        Raises:
            TypeError, ValueError: the state does not fit, as for :meth:`load_state_dict`.
        """
        other = state.get("method") if isinstance(state, Mapping) else None
        if isinstance(other, str) and other != self.name:  # the first thing to say, whatever else differs
            raise ValueError(f"state must be of method {self.name!r}, but is of {other!r}.")
        own = Entries(self._state())
        # Not as tensors of inference mode, which could not be stepped on.
        with torch.inference_mode(False), torch.no_grad():
            read = own.read("state", state, {})
            self._check_state(read)

        return lambda: self._adopt(own, read)

    def _adopt(self, entries: Entries, values: Mapping[str, Any]) -> None:
        """Restore entries of the state, and of the model, to values that they have saved or read."""
        with torch.inference_mode(False), torch.no_grad():
            self._replayed = self._new_replays()  # recordings know their tensors by address
            entries.load(values)
            self._guard.lower()
        self._looked_after = self.steps
        self._forget_derived()

    def __getstate__(self) -> dict[str, Any]:
        self.check_model()
        return {
            "model": self.model,
            "options": self.options,
            "loss": self.loss.of_one,
            "seed": self.seed,
            "on_nonfinite": self.on_nonfinite,
            "graph": self._graph,
            "state": self.state_dict(),
            "flags": self._guard.flags.clone(),
            "looked_after": self._looked_after,
        }

    def __setstate__(self, kept: dict[str, Any]) -> None:
        made_from = {name: kept[name] for name in ("loss", "seed", "on_nonfinite", "graph")}
        Method.__init__(self, kept["model"], kept["options"], **made_from)
        self.load_state_dict(kept["state"])
        self._guard.flags.copy_(kept["flags"])
        self._looked_after = kept["looked_after"]

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        ForkingPickler.register(cls, _send)


def _send(method: Method) -> tuple[Any, ...]:
    return _receive, (type(method), method.__getstate__())


def _receive(cls: type[Method], kept: dict[str, Any]) -> Method:
    """The copy of a method in another process.

    What Python's own means of sending to processes pass on of a tensor is its memory, since torch has them share it.
    The copy's model gets memory of its own, so that two methods never train the same weights.
    """
    for tensor in itertools.chain(kept["model"].parameters(), kept["model"].buffers()):
        tensor.data = tensor.data.clone()
    method = cls.__new__(cls)
    method.__setstate__(kept)
    return method


def _check_parameters(model: nn.Module) -> torch.dtype:
    """The dtype of the model's parameters; raises unless some can be trained, and all are plain and of one dtype."""
    named = list(model.named_parameters())
    if not named:
        raise ValueError(f"model must have parameters to train, but {type(model).__name__} has none.")
    lazy = [name for name, tensor in (*named, *model.named_buffers()) if is_lazy(tensor)]
    if lazy:
        raise ValueError(
            f"model must know the shapes of its parameters, but {lazy[0]!r} has none yet; call the model once, as in "
            "model(x[:2])."
        )
    _check.model_in_memory(model)
    for name, parameter in named:
        if parameter.is_inference():
            raise ValueError(
                f"model must be made outside torch.inference_mode, but {name!r} was made within, so that it cannot "
                "be trained; make it anew outside."
            )
        if type(parameter).__torch_dispatch__ is not Tensor.__torch_dispatch__:
            raise TypeError(
                f"model must have parameters that are plain tensors, but {name!r} is {_check.named_type(parameter)}; "
                "unwrap or gather it."
            )
        if parameter._post_accumulate_grad_hooks:
            raise ValueError(
                f"model must have no hooks that wait for accumulated gradients, but {name!r} has one, and no step "
                "accumulates any; remove it by its handle."
            )
    parameters = [parameter for _, parameter in named]
    if not any(parameter.requires_grad for parameter in parameters):
        raise ValueError("model must have a parameter that requires a gradient, but all are frozen.")
    dtypes = {parameter.dtype for parameter in parameters}
    if len(dtypes) > 1 or parameters[0].dtype not in (torch.float32, torch.float64):
        found = ", ".join(sorted(str(dtype) for dtype in dtypes))
        remedy = "call model.float() or model.double()"
        if any(dtype.is_complex for dtype in dtypes):
            remedy = "no method here trains complex ones"
        raise TypeError(
            f"model must be float32 or float64 throughout, but its parameters are {found}; {remedy}."
        )
    where = misplaced(list(model.named_parameters()))
    if where is not None:
        raise ValueError(
            f"model must hold each parameter in contiguous memory of its own, but {where}; copy it, as in "
            "parameter.data = parameter.data.contiguous().clone()."
        )
    return parameters[0].dtype


def _check_wrappers(model: nn.Module) -> None:
    """Raise a ValueError if a part of the model waits for a ``backward()`` of its own to exchange gradients."""
    for module in model.modules():
        name = type(module).__name__
        if name in ("DistributedDataParallel", "FullyShardedDataParallel"):
            raise ValueError(
                f"model must be free of {name}, which exchanges gradients in loss.backward() alone, while a step "
                "never calls that; pass the module inside, model.module."
            )


def _check_no_factors(name: str, model: nn.Module) -> None:
    """Raise a ValueError if the model holds a NonNegativeFactors, through which no derivative passes."""
    for path, module in model.named_modules():
        if isinstance(module, NonNegativeFactors):
            raise ValueError(
                f"model must hold no NonNegativeFactors for {name}, since that layer has no derivative, but {path!r} "
                "is one; use method='deepfacto'."
            )
