"""scikit-learn's estimators on networks that are trained by any method of this package.

::

    from altmin_ext.estimators import AMClassifier

    AMClassifier(hidden=(100,), lr=3e-3, random_state=0).fit(X, y).score(X_test, y_test)

They keep scikit-learn's contract (pipelines, searches, clones, sample weights, metadata routing), and add what an
online method is for: ``partial_fit`` on minibatches is ``fit``, bit for bit.

``import altmin_ext`` leaves scikit-learn alone; this module imports it, and needs at least 1.6.
"""

from altmin_ext._extras import require

require("sklearn", "sklearn")

from altmin_ext.estimators.classifier import AMClassifier  # noqa: E402
from altmin_ext.estimators.regressor import AMRegressor  # noqa: E402

__all__ = ["AMClassifier", "AMRegressor"]
