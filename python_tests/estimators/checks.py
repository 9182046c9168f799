"""scikit-learn's checks of both estimators, all of them, printed as JSON.

They run in a process of their own since SciPy reads ``SCIPY_ARRAY_API`` when it is imported, and without it one check
skips itself. CONTRIBUTING.md says how to run them with another version of scikit-learn.
"""

from __future__ import annotations

import json
import os
import sys
import warnings

# The checks ask for accuracy after one fit, of 200 samples or so: two minibatches a pass.
PARAMETERS = {"epochs": 60, "lr": 0.02}


def main() -> None:
    os.environ["SCIPY_ARRAY_API"] = "1"
    import sklearn
    from sklearn.utils.estimator_checks import check_estimator

    from altmin_ext.estimators import AMClassifier, AMRegressor

    warnings.simplefilter("ignore")
    found = {}
    for kind in (AMClassifier, AMRegressor):
        results = check_estimator(kind(**PARAMETERS), on_skip=None, on_fail=None)
        found[kind.__name__] = [
            (each["check_name"], each["status"], str(each["exception"])) for each in results
        ]
    json.dump({"version": sklearn.__version__, "checks": found}, sys.stdout)


if __name__ == "__main__":
    main()
