"""river's estimators on networks that are trained by any method of this package, one sample at a time.

::

    from river import datasets, evaluate, metrics, preprocessing
    from altmin_ext.river import AMClassifier

    model = preprocessing.StandardScaler() | AMClassifier(hidden=(20,), lr=0.01, seed=0)
    evaluate.progressive_val_score(datasets.Phishing(), model, metrics.Accuracy())

Features come and go by their names, classes appear when they do, and ``learn_many`` is ``learn_one`` on each row, bit
for bit. ``import altmin_ext`` leaves river alone; this module imports it, and needs at least 0.26.
"""

from altmin_ext._extras import require

_river = require("river", "river")
if tuple(map(int, _river.__version__.split(".")[:2])) < (0, 26):  # whose minibatches are pandas' alone
    raise ImportError(
        f'river must be at least 0.26, but is {_river.__version__}; get it with: pip install "altmin_ext[river]"'
    )

from altmin_ext.river.classifier import AMClassifier  # noqa: E402
from altmin_ext.river.regressor import AMRegressor  # noqa: E402

__all__ = ["AMClassifier", "AMRegressor"]
