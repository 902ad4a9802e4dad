"""Multiclass logistic regression: one matrix W and one bias b, and each label's weights are an image.

    s[k] = sum_j x[j] W[j, k] + b[k]        Q = Softmax(s)

The score of label k is the inner product of the input image with W[:, k]. So W[:, k] can be looked at: it is
red where ink speaks for k and blue where ink speaks against it. The images are saved to
logistic_regression.png, or to the file that is named on the command line.
"""

import sys

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import edfcore as edf

N_TRAIN, BATCH, EPOCHS = 1400, 64, 30

random = np.random.default_rng(0)
X, Y = load_digits(return_X_y=True)
order = random.permutation(len(X))
X, Y = X[order], Y[order]
X = (X - X[:N_TRAIN].mean()) / X[:N_TRAIN].std()

edf.seed(0)
edf.learning_rate = 0.1
x, y = edf.Input(), edf.Input()
Phi = edf.AffineParams(64, 10)
Q = edf.Softmax(edf.Affine(Phi, x))
ell = edf.LogLoss(Q, y)

for _epoch in range(EPOCHS):
    order = random.permutation(N_TRAIN)
    for first in range(0, N_TRAIN, BATCH):
        n = order[first : first + BATCH]
        x.value, y.value = X[n], Y[n]
        edf.Forward()
        edf.Backward(ell)
        edf.SGD()

for part, rows in (("train", slice(0, N_TRAIN)), ("test", slice(N_TRAIN, None))):
    x.value, y.value = X[rows], Y[rows]
    edf.Forward()
    error = np.mean(Q.value.argmax(axis=1) != Y[rows])
    print(f"{part} loss {ell.value.mean():.4f}, {part} error {error:.2%}")

W = Phi.w.value
figure = Figure(figsize=(10, 4.4), layout="constrained")
for label, axes in enumerate(figure.subplots(2, 5).ravel()):
    image = W[:, label].reshape(8, 8)
    bound = np.abs(W).max()
    axes.imshow(image, cmap="RdBu_r", vmin=-bound, vmax=bound)
    axes.set_title(f"W[:, {label}]")
    axes.set_axis_off()
path = sys.argv[1] if len(sys.argv) > 1 else "logistic_regression.png"
figure.savefig(path, dpi=100)
print(f"the ten weight images are in {path}")
