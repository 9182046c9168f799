"""A stream of minibatches in memory: many steps in one native call, between which only Ctrl-C can come."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from altmin_ext._interrupt import HeldInterrupt

_longest_call = 0.02  # seconds, so that Ctrl-C is not noticed late


class Stream:
    """Steps of a method on minibatches that lie one after the other.

    Args:
        method: trained.
        x, y: samples that fit the model, contiguous.
        size: of a minibatch; the last one has what is left.
    """

    def __init__(self, method: Any, x: Tensor, y: Tensor, size: int) -> None:
        self._method, self._x, self._y, self._size = method, x, y, size
        self._whole = x.shape[0] // size
        steps = -(-x.shape[0] // size)
        self._losses = x.new_empty(steps)
        self._correct = torch.zeros(steps, dtype=torch.int64, device=x.device)
        self._counts_correct = True
        self._objectives: list[Tensor] = []
        self._displacements: list[Tensor] = []
        self._at_once = 1  # steps per native call, until they have been timed

    def learn(self) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Make all steps.

        Returns:
            The mean losses (steps,), the counts of correct samples (steps,) or None, the objectives (steps, stages)
            or None, and the displacements (steps, hidden stages) or None.
        """
        done = 0
        with HeldInterrupt() as interrupt:
            while done < len(self._losses):
                interrupt.held = True
                taken = self._replay(done) if done < self._whole else 0
                if not taken:
                    self._step(done)
                    taken = 1
                done += taken
                interrupt.release()
        return (
            self._losses,
            self._correct if self._counts_correct else None,
            torch.stack(self._objectives) if self._objectives else None,
            torch.stack(self._displacements) if self._displacements else None,
        )

    def _minibatch(self, number: int) -> tuple[Tensor, Tensor]:
        own = slice(number * self._size, (number + 1) * self._size)
        return self._x[own], self._y[own]

    def _replay(self, first: int) -> int:
        """Make steps by a native call; returns how many, which is 0 if the next one must be made by itself."""
        begun = time.perf_counter()
        most = min(self._whole - first, self._at_once)
        planned = self._method.planned_for(*self._minibatch(first))
        if planned is None:
            return 0
        taken: int = self._method.repeat(planned, self._x, self._y, first, most, self._losses, self._correct)
        self._counts_correct = planned.counts_correct
        if taken == most and time.perf_counter() - begun < _longest_call / 2:
            self._at_once *= 2
        return taken

    def _step(self, number: int) -> None:
        report = self._method.step(*self._minibatch(number))
        self._losses[number] = report.loss
        self._counts_correct = report.correct is not None
        if report.correct is not None:
            self._correct[number] = report.correct
        if report.objective is not None:
            self._objectives.append(report.objective)
        if report.displacement is not None:
            self._displacements.append(report.displacement)
