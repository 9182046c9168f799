"""Splits a chain of modules into stages.

A stage is a pre-map followed by a map. The pre-map has no parameters: activation, dropout, pooling. The map is one
Linear or convolution with the batch normalisation next to it, or any other module with parameters. The output of a
stage's map is a *code*. The last stage is the predictor, whose outputs are the logits::

    x -> [pre | map] -> c_1 -> [pre | map] -> c_2 -> ... -> [pre | map] -> logits
"""

from __future__ import annotations

from altmin_ext.network.activations import activation_of
from altmin_ext.network.chain import Chain, PreMap
from altmin_ext.network.inputs import may_write_input
from altmin_ext.network.maps import EvaluatedMap, Iterations, LinearMap, LocalMap, Map, known_maps
from altmin_ext.network.pieces import Piece, known_pieces
from altmin_ext.network.recurrent import ElmanMap, OutputSequenceMap, SequenceMap
from altmin_ext.network.spectral_norms import SpectralNorms
from altmin_ext.network.splitting import (
    BoundStage,
    Unaltered,
    as_chain,
    known_chains,
    leaves,
    map_spans,
    split,
    split_at,
)

__all__ = [
    "BoundStage",
    "Chain",
    "ElmanMap",
    "EvaluatedMap",
    "Iterations",
    "LinearMap",
    "LocalMap",
    "Map",
    "OutputSequenceMap",
    "Piece",
    "PreMap",
    "SequenceMap",
    "SpectralNorms",
    "Unaltered",
    "activation_of",
    "as_chain",
    "known_chains",
    "known_maps",
    "known_pieces",
    "leaves",
    "map_spans",
    "may_write_input",
    "split",
    "split_at",
]
