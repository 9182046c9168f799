"""Training of one model by several processes, on torch.distributed.

A *rank* is one of the processes. With ``parallel="data"`` each rank takes a share of the samples of every minibatch,
and all ranks make the step that one process would make on all of them: what a step sums over samples is summed over
the ranks. So every rank has the same model and the same method, to the same bits, before and after every step.
"""

from __future__ import annotations

from altmin_ext.parallel.ranks import Ranks, join
from altmin_ext.parallel.whole_minibatch import WholeMinibatch

__all__ = ["Ranks", "WholeMinibatch", "join"]
