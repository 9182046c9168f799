"""The options of methods: how they are declared, and the meaning of those that several methods share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from altmin_ext import _check
from altmin_ext._words import by_spelling

#: Takes an option's name and value; returns the value to keep, or raises.
Check = Callable[[str, Any], Any]


def number(minimum: float = 0.0, **bounds: Any) -> Check:
    """Check for a number, see :func:`altmin_ext._check.number`."""
    return partial(_check.number, minimum=minimum, **bounds)


def positive(**bounds: Any) -> Check:
    """Check for a number greater than 0."""
    return partial(_check.number, above=0.0, **bounds)


def number_or(word: str, **bounds: Any) -> Check:
    """Check for the word, or a number."""
    return partial(_check.number_or, word, **bounds)


def integer(minimum: int = 1) -> Check:
    """Check for an integer."""
    return partial(_check.integer, minimum=minimum)


def choice(*choices: str) -> Check:
    """Check for one of the words."""
    return partial(_check.choice, choices=choices)


boolean: Check = _check.boolean

# Options of several families of methods: help text and check, since a name has the same meaning in all of them. An
# option of a single family has its help text where it is declared.
_shared: dict[str, tuple[str, Check]] = {
    "lr": ("learning rate of the weights that gradient steps change", number()),
    "weight_decay": ("decoupled weight decay: each step shrinks weights by lr * weight_decay", number()),
    "relaxation": (
        "part of each weight update that is taken: 1 all of it, less damps it, more over-relaxes",
        number(),
    ),
    "report_objective": (
        "report the objective of every stage, and how far codes move, with each step",
        boolean,
    ),
    "l1_weights": (
        "factor of the penalty ||W||_1 in the objective that a stage's weights minimise; biases are free",
        number(),
    ),
    "lr_codes": (
        "step size of the codes, or 'auto' for one over a bound of the local curvature",
        number_or("auto", above=0.0),
    ),
    "l1_codes": ("factor of the penalty ||c||_1 on each sample's codes, a soft threshold", number()),
    "code_iterations": ("gradient steps on each code before the weights move", integer()),
    "rho": (
        "factor of the penalty rho/2 ||.||^2 that ties codes to the outputs of their layers or blocks, relative to "
        "each sample's loss",
        positive(),
    ),
    "forgetting": (
        "share of the past that each minibatch displaces: A <- (1 - forgetting) A + its own",
        number(maximum=1.0),
    ),
    "ridge": (
        "pulls weights, but not biases, to zero: added to the diagonal of the sums over all samples that they are "
        "solved with; admm takes it in units of that diagonal's mean",
        positive(),
    ),
    "sweeps": ("passes of coordinate descent over the columns, per minibatch", integer()),
    "duals": (
        "dual variables: 'online', zero at the start of each step, so without effect in its first round; 'stored', "
        "kept for every sample with its codes (block-admm only); or 'none'",
        choice("online", "stored", "none"),
    ),
    "chunk_size": ("the most samples worked on at a time", integer()),
}


def option(
    default: Any,
    help: str = "",
    check: Check | None = None,
    *,
    none: str = "",
    flag: bool = True,
    **field: Any,
) -> Any:
    """Declare an option: a field of an options class.

    Args:
        default: the default value.
        help: what the option does, for the command line's help; "" for an option that several families of methods
            share, whose text is in this module.
        check: the check of its values, such as ``number()``; None for that of the shared option. The value None is
            allowed as well if it is the default.
        none: what the default None stands for, for the command line's help.
        flag: whether its values can be written on a command line.
        **field: for :func:`dataclasses.field`.
    """
    metadata = {"help": help, "check": check, "none": none, "flag": flag}
    return dataclasses.field(default=default, metadata=metadata, **field)


def help_of(field: dataclasses.Field[Any]) -> str:
    """The help text of an option."""
    return field.metadata["help"] or _shared[field.name][0]


def check_of(field: dataclasses.Field[Any]) -> Check:
    """The check of an option's values."""
    return field.metadata["check"] or _shared[field.name][1]


@dataclasses.dataclass(frozen=True)
class MethodOptions:
    """The options of every method. Subclasses add their own, and extend :meth:`complete` and :meth:`check`.

    First each value is checked by itself, and kept as a plain Python object.

    Raises:
        TypeError, ValueError: an option is wrong, or does not go with the others.
    """

    report_objective: bool = option(False)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None or field.default is not None:
                self._set(field.name, check_of(field)(field.name, value))
        self.complete()
        self.check()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def complete(self) -> None:
        """Replace None by the value that it stands for, if that depends on other options."""

    def check(self) -> None:
        """Raise a ValueError that names an option if it does not go with the others."""


@dataclasses.dataclass(frozen=True)
class GradientOptions(MethodOptions):
    """The options of methods whose weights take gradient steps."""

    lr: float = option(1e-3)
    weight_decay: float = option(0.0)


# Names of options and arguments elsewhere, or here in the past -> their names here, if the method has them. Spellings
# that differ in case, underscores or a final s are the same word, see :func:`altmin_ext._words.plain_spelling`.
_other_words: dict[str, tuple[str, ...]] = {
    "lr": ("relaxation",),
    "learning_rate learning_rate_init lrate step_size eta alpha": ("lr", "relaxation"),
    "weight_decay": ("l2_weights", "shrinkage"),
    "decay": ("weight_decay", "l2_weights", "shrinkage"),
    "l2": ("weight_decay", "l2_weights", "ridge"),
    "l1": ("l1_weights",),
    "beta": ("rho",),
    "penalty": ("mu", "rho", "beta"),
    "prior": ("prior_batches",),
    "criterion label_loss loss_fn loss_func loss_function objective": ("loss",),
    "optimizer optimiser optim solver algorithm": ("method",),
    "n_epochs num_epochs max_epochs max_iter n_iter num_iter num_iterations max_iterations": ("epochs",),
    "max_steps n_steps num_steps": ("steps",),
    "batch bs minibatch minibatch_size mini_batch_size": ("batch_size",),
    "random_state random_seed rng generator": ("seed",),
    "validation_data validation_set val val_data val_set valid test_data eval_data eval_set": ("validation",),
    "validation_split validation_size val_fraction val_split test_size": ("validation_fraction",),
    "scheduler lr_scheduler learning_rate_schedule": ("lr_schedule",),
    "verbose verbosity quiet silent progress_bar": ("progress",),
    "hooks": ("callbacks",),
    "gpu cuda use_cuda accelerator": ("device",),
    "cuda_graph use_graph": ("graph",),
    "nonfinite skip_nan skip_nonfinite": ("on_nonfinite",),
}

# Words for what is no option of any method, and what to do instead.
_unsupported = {
    "sample_weight": "weights are a column of y, see altmin_ext.losses.Weighted",
    "class_weight": "a loss weighs classes, as loss=torch.nn.CrossEntropyLoss(weight=...) does",
    "early_stopping patience tol n_iter_no_change": "pass callbacks=[EarlyStopping(...)] of altmin_ext.callbacks",
    "threads num_threads n_threads n_jobs": "torch.set_num_threads sets the number of CPU threads",
    "num_workers": "it belongs to a DataLoader, which may be passed as data",
    "dtype precision": "the model's dtype counts, as model.double() sets it",
    "activation dropout hidden hidden_layer_sizes layers": "it belongs to the model",
    "dataset dataloader train_loader train_data": "data is the second argument, in any form",
}


#: By their plain spelling: what other words mean here, and what to do where there is no such option.
other_words, unsupported = by_spelling(_other_words), by_spelling(_unsupported)
