"""A history that is written down by hand, in which every number is known."""

import math

import torch

from altmin_ext.history import History


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def make_history(accuracy=True):
    history = History()
    history.add_steps(
        double(2.0, math.nan, 0.1),
        double(0.25, 0.0, 0.75) if accuracy else None,
        double([0.5, 0.1], [math.inf, 0.2], [0.3, 0.4]),
    )
    for epoch in (1, 2):
        history.epochs.append(
            {
                "epoch": epoch,
                "loss": 3.0 / epoch,
                "accuracy": 0.4 * epoch if accuracy else None,
                "validation_loss": 2.0 / epoch,
                "validation_accuracy": 0.3 * epoch if accuracy else None,
                "seconds": 0.5,
                "samples_per_second": 1000.0,
                "learning_rate_factor": 1.0,
                "objective": [0.5, 0.25],
                "displacement": [0.125],
                "steps": 2 * epoch - 1,
                "restores": None,
            }
        )
    return history
