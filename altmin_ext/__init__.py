"""Trains neural networks by alternating minimisation, without backpropagation's derivative chain."""

from altmin_ext import callbacks, checkpoint, data, methods, models, nn, ops, schedules
from altmin_ext._version import __version__ as __version__
from altmin_ext.callbacks import (
    Checkpoint,
    EarlyStopping,
    MLflowLogger,
    OptunaPruning,
    TensorBoardLogger,
    WandbLogger,
)
from altmin_ext.errors import DivergenceError
from altmin_ext.filters import fit_filters
from altmin_ext.methods import Method, StepReport, make_method, merge_memories
from altmin_ext.nn import NonNegativeFactors, Stage
from altmin_ext.optimizer import MethodOptimizer, as_optimizer
from altmin_ext.training import (
    Evaluation,
    History,
    evaluate,
    plot_histories,
    predict,
    report_histories,
    train,
)

__all__ = [
    "Checkpoint",
    "DivergenceError",
    "EarlyStopping",
    "Evaluation",
    "History",
    "MLflowLogger",
    "Method",
    "MethodOptimizer",
    "NonNegativeFactors",
    "OptunaPruning",
    "Stage",
    "StepReport",
    "TensorBoardLogger",
    "WandbLogger",
    "as_optimizer",
    "callbacks",
    "checkpoint",
    "data",
    "evaluate",
    "fit_filters",
    "make_method",
    "merge_memories",
    "methods",
    "models",
    "nn",
    "ops",
    "plot_histories",
    "predict",
    "report_histories",
    "schedules",
    "train",
]
