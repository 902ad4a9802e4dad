"""A node of your own in NumPy: the function x * sigmoid(x), checked, then used between nodes of the engine.

A node needs three things: it puts itself on the list `edf.CompNodes`, `forward` sets `self.value`, and
`backward` adds to the gradient of its inputs. The first axis of every array is the minibatch.
"""

import numpy as np
from sklearn.datasets import load_digits

import edfcore as edf


class Swish(edf.CompNode):
    def __init__(self, x):
        edf.CompNodes.append(self)
        self.x = x

    def forward(self):
        self.sigmoid = 1 / (1 + np.exp(-self.x.value))
        self.value = self.x.value * self.sigmoid

    def backward(self):
        # d(x s)/dx = s + x s (1 - s) = s + value (1 - s)
        self.x.addgrad(self.grad * (self.sigmoid + self.value * (1 - self.sigmoid)))


# One node by itself: what backward gives against the slope of forward, in a random direction.
random = np.random.default_rng(0)
edf.testing.check_vjp(Swish, random.normal(size=(5, 7)))
print("Swish: backward agrees with the slope of forward")

X, Y = load_digits(return_X_y=True)
order = random.permutation(len(X))
X, Y = X[order], Y[order]
X = (X - X[:1500].mean()) / X[:1500].std()

edf.clear_compgraph()
edf.seed(0)
edf.learning_rate = 0.5
x, y = edf.Input(), edf.Input()
L1 = Swish(edf.Affine(edf.AffineParams(64, 64), x))
Q = edf.Softmax(edf.Affine(edf.AffineParams(64, 10), L1))
ell = edf.LogLoss(Q, y)

# The whole graph at once: backpropagation against numerical differentiation at every node.
x.value, y.value = X[:4], Y[:4]
edf.verify(ell)

for _epoch in range(15):
    order = random.permutation(1500)
    for first in range(0, 1500, 64):
        n = order[first : first + 64]
        x.value, y.value = X[n], Y[n]
        edf.Forward()
        edf.Backward(ell)
        edf.SGD()

x.value, y.value = X[1500:], Y[1500:]
edf.Forward()
print(f"test loss {ell.value.mean():.4f}, test error {np.mean(Q.value.argmax(axis=1) != Y[1500:]):.2%}")
