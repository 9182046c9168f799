"""Callbacks of a training run, and the state that they are passed.

A callback is any object with one or more of the methods ``on_start``, ``on_step``, ``on_epoch``, ``on_end`` and
``on_close``::

    class PrintLoss:
        def on_epoch(self, state):
            print(state.epoch, state.history.epochs[-1]["loss"])

    altmin_ext.train(model, data, callbacks=[PrintLoss(), EarlyStopping(monitor="loss")])
"""

from altmin_ext.callbacks.loggers import Logger, MLflowLogger, TensorBoardLogger, WandbLogger
from altmin_ext.callbacks.monitoring import Checkpoint, EarlyStopping
from altmin_ext.callbacks.pruning import OptunaPruning
from altmin_ext.callbacks.state import TrainingState

__all__ = [
    "Checkpoint",
    "EarlyStopping",
    "Logger",
    "MLflowLogger",
    "OptunaPruning",
    "TensorBoardLogger",
    "TrainingState",
    "WandbLogger",
]
