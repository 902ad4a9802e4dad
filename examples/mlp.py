"""The slides' multilayer perceptron on handwritten digits: Relu, then Sigmoid, then Softmax and log-loss.

    L0 = Relu(W0 x + b0)        L1 = Sigmoid(W1 L0 + b1)        Q = Softmax(L1)

The scores L1 lie between 0 and 1. So even when all is right, the likeliest of ten labels has score 1 and the
others 0, its probability is e / (e + 9), and the log-loss stays above ln(1 + 9/e) = 1.461. Its gradient is
small, too, which is why the learning rate is large. The error rate does not mind: it asks only which score
is the largest.
"""

import numpy as np
from sklearn.datasets import load_digits

import edfcore as edf

N_TRAIN, BATCH, EPOCHS = 1400, 64, 25

# 1,797 images of 8x8 pixels, in random order; pixels are shifted and scaled by the training set alone.
random = np.random.default_rng(0)
X, Y = load_digits(return_X_y=True)
order = random.permutation(len(X))
X, Y = X[order], Y[order]
X = (X - X[:N_TRAIN].mean()) / X[:N_TRAIN].std()

# The computation graph is built once. Inputs have no value yet, and so no batch size.
edf.seed(0)
edf.learning_rate = 4.0
x, y = edf.Input(), edf.Input()
Phi1 = edf.AffineParams(64, 128)
Phi2 = edf.AffineParams(128, 10)
L1 = edf.Relu(edf.Affine(Phi1, x))
Q = edf.Softmax(edf.Sigmoid(edf.Affine(Phi2, L1)))
ell = edf.LogLoss(Q, y)

for epoch in range(1, EPOCHS + 1):
    order = random.permutation(N_TRAIN)
    total = 0.0
    for first in range(0, N_TRAIN, BATCH):
        n = order[first : first + BATCH]
        x.value, y.value = X[n], Y[n]
        edf.Forward()
        edf.Backward(ell)
        edf.SGD()
        total += ell.value.sum()
    if epoch % 5 == 0:
        print(f"epoch {epoch:2}: training loss {total / N_TRAIN:.4f} (at least 1.461)")

x.value, y.value = X[N_TRAIN:], Y[N_TRAIN:]
edf.Forward()
error = np.mean(Q.value.argmax(axis=1) != Y[N_TRAIN:])
print(f"test loss {ell.value.mean():.4f}, test error {error:.2%}")
