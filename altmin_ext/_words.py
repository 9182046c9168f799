"""Words of other libraries, and other spellings: what they are called here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeVar

_T = TypeVar("_T")


def plain_spelling(word: str) -> str:
    """A word in lower case, without underscores and a final s: batchSize, batch_sizes and batchsize are the same."""
    return word.replace("_", "").replace("-", "").lower().removesuffix("s")


def by_spelling(words: dict[str, _T]) -> dict[str, _T]:
    """The meanings of words listed with spaces between them, by each word's plain spelling."""
    return {plain_spelling(word): meaning for listed, meaning in words.items() for word in listed.split()}


# Names elsewhere -> names here, each for whatever kind of thing has that name: a loss, a method, a command ...
_other_names: dict[str, tuple[str, ...]] = by_spelling(
    {
        # losses
        "ce categorical_crossentropy cross_entropy_loss nll nll_loss log_loss softmax": ("cross_entropy",),
        "l2 mse_loss mean_squared_error squared_error": ("mse",),
        "svm hinge_loss multi_margin multi_margin_loss": ("hinge",),
        # activations
        "swish": ("silu",),
        "logistic": ("sigmoid",),
        "linear": ("identity",),
        "lrelu": ("leaky_relu",),
        "binary step heaviside sgn": ("sign", "binary"),
        "gelu_new": ("gelu_tanh",),
        # methods
        "am alternating_minimization alternating_minimisation online_am": ("am-adam", "am-sgd"),
        "backprop backpropagation bp": ("adam", "sgd"),
        "adamw nadam rmsprop": ("adam",),
        "recursive_least_squares least_squares ridge": ("rls",),
        "lda streaming_lda linear_discriminant_analysis": ("slda",),
        "nearest_class_mean nearest_centroid": ("ncm",),
        "straight_through straight_through_estimator": ("ste",),
        "target_propagation difference_target_propagation": ("dtp",),
        # data sets and networks
        "fmnist fashion": ("fashion-mnist",),
        "cnn convnet lenet": ("lenet5",),
        "rnn": ("elman",),
        "dense fc feedforward multilayer_perceptron": ("mlp",),
        # schedules
        "cosine_annealing cosine_annealing_lr cosine_decay": ("cosine",),
        "none fixed": ("constant",),
        # what is monitored
        "val_loss": ("validation_loss",),
        "val_acc val_accuracy": ("validation_accuracy",),
        # formats
        "pt2 exported_program torchscript": ("torch.export",),
        "pt pth state_dict pickle": ("torch",),
        # commands
        "fit learn": ("train",),
        "eval test score validate": ("evaluate",),
        "infer inference classify apply": ("predict",),
        "convert save dump": ("export",),
        "search hpo optimize optimise sweep": ("tune",),
        "show summary": ("inspect",),
        "version env environment doctor": ("info",),
        "autocomplete": ("completion",),
    }
)


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known names that a wrong one may be meant for: the same in another spelling or word, or similar ones."""
    spelled = {plain_spelling(word): word for word in known}
    spelling = plain_spelling(name)
    if spelling in spelled:
        return [spelled[spelling]]
    meant = [other for other in _other_names.get(spelling, ()) if other in spelled.values()]
    if meant:
        return meant
    return [spelled[word] for word in difflib.get_close_matches(spelling, spelled, n=3, cutoff=0.5)]


__all__ = ["by_spelling", "nearest", "plain_spelling"]
