"""
In a pipeline of scikit-learn
=============================

``AMClassifier`` is an estimator like any other: it stands behind a scaler, and a search tries its options,
which are arguments of the method.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from altmin_ext.estimators import AMClassifier

X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(X.astype("float32"), y, random_state=0, stratify=y)

network = AMClassifier(method="am-adam", epochs=20, batch_size=50, random_state=0)
model = make_pipeline(StandardScaler(), network)
grid = {
    "amclassifier__lr": [1e-4, 1e-3, 1e-2, 1e-1],
    "amclassifier__hidden": [(10,), (30,), (100,), (100, 100)],
}
search = GridSearchCV(model, grid, cv=3).fit(X, y)
print(search.best_params_)
print(f"{search.score(X_test, y_test):.3f} of the held-out digits are right")

# %%
# What the search has seen: the mean of three held-out thirds. The learning rate decides; the width matters
# less, as long as ten units need not do it all.

scores = search.cv_results_["mean_test_score"].reshape(4, 4)
figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
image = axis.imshow(scores, vmin=0.5, vmax=1, aspect="auto")
for (row, column), score in np.ndenumerate(scores):
    colour = "black" if score > 0.8 else "white"
    axis.text(column, row, f"{score:.3f}", ha="center", va="center", color=colour)
axis.set(xlabel="learning rate", ylabel="hidden units", xticks=range(4), yticks=range(4))
axis.set_xticklabels(grid["amclassifier__lr"])
axis.set_yticklabels([" and ".join(map(str, hidden)) for hidden in grid["amclassifier__hidden"]])
figure.colorbar(image, label="right")
plt.show()
