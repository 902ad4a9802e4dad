"""Plans: what is left out, what goes together, where values lie, and that making one changes nothing."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import edfcore as edf
from plan_programs import Graph, beside, chain, examples, mlp, recurrent


def planned(graph: Graph, batch: int = 6) -> Any:
    x, y, loss = graph
    X, Y = examples(batch, width=37)
    x.value, y.value = X, Y
    return edf.plan(loss)


def test_a_plan_leaves_out_what_nobody_needs() -> None:
    lines = str(planned(beside()))
    assert " softmax:" not in lines, "the loss comes from the scores"
    assert " square:" not in lines
    assert " exp:" not in lines
    assert "log_loss_scores_both (log_loss, fused)" in lines
    assert "Node made at plan_programs.py:" in lines


def test_a_plan_without_a_loss_is_forward_alone() -> None:
    x, y, _ = mlp([37, 6, 5])
    x.value, y.value = examples(4)
    lines = str(edf.plan())
    assert "sgd" not in lines
    assert " softmax:" in lines


def test_neighbouring_elementwise_steps_form_groups() -> None:
    plan = planned(chain())
    assert plan.groups < plan.steps
    assert " block" in str(plan), "values that never leave their group have no place in memory"


def test_elementwise_steps_follow_the_product_they_read() -> None:
    lines = str(planned(mlp([37, 6, 5]))).splitlines()

    def follows(step: str, before: str) -> bool:
        at = next(i for i, line in enumerate(lines) if f"\\ {step}:" in line)
        return f"/ {before}" in lines[at - 1]

    assert follows("relu", "affine:")
    assert follows("relu_grad", "matmul nt:")


def test_a_parameter_descends_as_its_gradient_is_made() -> None:
    lines = [
        line for line in str(planned(mlp([37, 6, 5]))).splitlines() if " matmul_sgd (sgd, fused) tn: " in line
    ]
    assert len(lines) == 2
    assert all(re.search(r": %\d+ \(\d+, \d\) parameter, .* -> in place", line) for line in lines)
    assert str(planned(mlp([37, 6, 5]))).count(" sum_to_sgd (sgd, fused): ") == 2, "biases"


def test_a_descent_does_not_read_what_another_one_has_updated(device: str) -> None:
    """The gradient of each matrix is a product with the other one, which must be that from before the step."""
    ends = []
    for keep in ("all", "looked"):
        edf.clear_compgraph()
        edf.keep(keep)
        a, b = (
            edf.Parameter(np.linspace(-1, 1, 12).reshape(3, 4)),
            edf.Parameter(np.linspace(0, 2, 20).reshape(4, 5)),
        )
        loss = edf.Sum(edf.Square(edf.Matmul(a, b)), axis=1)
        edf.learning_rate = 0.01
        for _ in range(6):
            edf.Forward()
            edf.Backward(loss)
            edf.SGD()
        ends.append((a.value.copy(), b.value.copy()))
    edf.keep("looked")
    for straight, planned_end in zip(*ends, strict=True):
        np.testing.assert_array_equal(straight, planned_end)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_parts_of_a_product_go_on_while_others_are_at_work(threads: int, device: str) -> None:
    """All matrices have one shape, so that memory could be taken too early from a product that still reads it."""
    _core, n, ends = edf._core, 150 if device == "cpu" else 20, []
    before = _core.num_threads()
    _core.set_num_threads(threads)
    for keep in ("all", "looked"):
        edf.clear_compgraph()
        edf.keep(keep)
        x, y, loss = mlp([n] * 5, edf.Tanh)
        x.value, y.value = np.random.default_rng(9).normal(size=(n, n)), np.zeros(n, int)
        for _ in range(6):
            edf.Forward()
            edf.Backward(loss)
            edf.SGD()
        ends.append([p.value.copy() for p in edf.Parameters])
    edf.keep("looked")
    _core.set_num_threads(before)
    for planned_end, straight_end in zip(*ends, strict=True):
        np.testing.assert_array_equal(planned_end, straight_end)


SHAPES = [
    (64, 256, 1088),
    (97, 130, 3000),
    (256, 784, 1000),
    (64, 700, 4096),
]  # whose right operand is in parts


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("batch", "inputs", "outputs"), SHAPES)
def test_what_follows_a_product_runs_once(batch: int, inputs: int, outputs: int, threads: int) -> None:
    rng = np.random.default_rng(5)
    X = rng.standard_normal((batch, inputs)).astype(np.float32)
    W, b = (rng.standard_normal(s).astype(np.float32) / 16 for s in ((inputs, outputs), (outputs,)))
    x = edf.Input()
    layer = edf.AffineParams(inputs, outputs)
    layer.w.value, layer.b.value = W, b
    mean = edf.Mean(edf.Sigmoid(edf.Affine(layer, x)), axis=1)  # nobody needs the product itself
    want = (1 / (1 + np.exp(-(X.astype(np.float64) @ W + b)))).mean(axis=1)
    before = edf._core.num_threads()
    edf._core.set_num_threads(threads)
    try:
        for _ in range(4):
            x.value = X
            edf.Forward()
            np.testing.assert_allclose(mean.value, want, rtol=1e-5)
    finally:
        edf._core.set_num_threads(before)


def test_a_matrix_descends_once_along_a_deep_product() -> None:
    rng = np.random.default_rng(6)
    X = rng.standard_normal((1500, 256)).astype(np.float32)  # deeper than a product that descends by itself
    want = rng.standard_normal((256, 4096)) / 16
    x, W = edf.Input(X), edf.Parameter(want)
    h = edf.Matmul(x, W)
    loss = edf.Sum(edf.Square(h), axis=1)
    edf.learning_rate = 0.01
    for _ in range(4):
        edf.Forward()
        edf.Backward(loss)
        edf.SGD()
        want = want - 0.01 * (X.T.astype(np.float64) @ (2 * (X @ want) / len(X)))
        np.testing.assert_allclose(W.value, want, atol=1e-5)


def test_products_with_one_matrix_share_its_transpose() -> None:
    lines = str(planned(recurrent())).splitlines()
    assert sum(" transpose: " in line for line in lines) == 1
    assert not any(" nt: " in line and "(9, 9) parameter" in line for line in lines)


def test_gradients_of_one_matrix_add_up_as_they_are_made() -> None:
    lines = str(planned(recurrent())).splitlines()
    added = [line for line in lines if " matmul_sum (matmul, fused) tn: " in line]
    assert len(added) == 2, "one for each matrix"
    for line, products in zip(added, (3, 4), strict=True):
        assert line.count("%") == 2 + 2 * products, "the sum so far, the products, and the sum"
        assert re.search(r": %\d+ \(\d+, 9\) @(\d+), .* -> %\d+ \(\d+, 9\) @\1,?", line), "in place"


def test_sums_of_deep_products_are_made_a_few_at_a_time() -> None:
    x, y = edf.Input(), edf.Input()
    W = edf.Parameter(np.ones((7, 7)))
    h: Any = x
    for _ in range(9):
        h = edf.Matmul(h, W)
    x.value, y.value = np.ones((50, 7)), np.zeros(50, int)
    lines = str(edf.plan(edf.LogLoss(edf.Softmax(h), y))).splitlines()
    added = [line for line in lines if " matmul_sum " in line]
    assert [line.count("%") // 2 - 1 for line in added] == [3, 3, 2]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("trans_a", [False, True])
@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 9, 3), (13, 70, 1), (200, 33, 20), (7, 16, 0), (0, 4, 2)])
def test_a_sum_of_products_is_what_its_parts_give(
    device: str, shape: tuple[int, int, int], trans_a: bool, trans_b: bool, dtype: Any
) -> None:
    rows, columns, depth = shape
    random = np.random.default_rng(8)

    def matrix(n: int, m: int) -> Any:
        return edf.Tensor(random.normal(size=(n, m)), dtype=dtype)

    want = total = matrix(rows, columns)
    terms = []
    for _ in range(4):
        a = matrix(depth, rows) if trans_a else matrix(rows, depth)
        b = matrix(columns, depth) if trans_b else matrix(depth, columns)
        want = want + edf.ops.matmul(a, b, trans_a=trans_a, trans_b=trans_b)
        terms += [a, b]
    attrs = edf._describe.Attrs(trans_a=trans_a, trans_b=trans_b)
    made = edf._core.apply(edf._core.find_op("matmul_sum"), (total, *terms), attrs)
    np.testing.assert_array_equal(made.numpy(), want.numpy())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("trans_a", [False, True])
@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 9, 3), (13, 170, 1), (100, 33, 20), (7, 16, 0), (0, 4, 2)])
def test_a_descent_along_a_product_is_what_its_parts_give(
    device: str, shape: tuple[int, int, int], trans_a: bool, trans_b: bool, dtype: Any
) -> None:
    rows, columns, depth = shape
    random = np.random.default_rng(10)

    def matrix(n: int, m: int) -> Any:
        return edf.Tensor(random.normal(size=(n, m)), dtype=dtype)

    a = matrix(depth, rows) if trans_a else matrix(rows, depth)
    b = matrix(columns, depth) if trans_b else matrix(depth, columns)
    p = matrix(rows, columns)
    want = edf.Tensor(p.numpy())
    edf.ops.sgd(want, edf.ops.matmul(a, b, trans_a=trans_a, trans_b=trans_b), 0.3)
    edf._core.apply(
        edf._core.find_op("matmul_sgd"),
        (p, a, b),
        edf._describe.Attrs(None, False, trans_a, trans_b, None, 0.3),
    )
    np.testing.assert_array_equal(p.numpy(), want.numpy())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("shape", "to"),
    [
        ((1, 1), (1,)),
        ((5, 9), (9,)),
        ((32, 128), (128,)),
        ((32, 128), ()),
        ((700, 3), (3,)),
        ((700, 70), (700, 1)),
        ((9000, 40), (40,)),
        ((3, 5, 7), (3, 1, 7)),
        ((0, 4), (4,)),
    ],
)
def test_a_descent_along_a_sum_is_what_its_parts_give(
    device: str, shape: tuple[int, ...], to: tuple[int, ...], dtype: Any
) -> None:
    random = np.random.default_rng(11)
    x, p = (edf.Tensor(random.normal(size=size), dtype=dtype) for size in (shape, to))
    want = edf.Tensor(p.numpy())
    summed = edf._core.apply(edf._core.find_op("sum_to"), (x,), edf._describe.Attrs(to))
    edf.ops.sgd(want, summed, 0.3)
    before = p.numpy().copy()
    edf._core.apply(
        edf._core.find_op("sum_to_sgd"), (p, x), edf._describe.Attrs(to, False, False, False, None, 0.3)
    )
    np.testing.assert_array_equal(p.numpy(), want.numpy())
    axes = tuple(
        i for i, n in enumerate(shape) if i < len(shape) - len(to) or n != to[i - len(shape) + len(to)]
    )
    exact = before - 0.3 * x.numpy().astype(np.float64).sum(axes).reshape(to)
    np.testing.assert_allclose(p.numpy(), exact, rtol=1e-5, atol=1e-5 * max(shape))


def test_a_descent_along_a_sum_refuses_another_shape() -> None:
    p, x = edf.Tensor(np.ones(3)), edf.Tensor(np.ones((2, 4)))
    with pytest.raises(edf.ShapeError, match=r"p has shape \(3,\) and the sum has shape \(4,\)"):
        edf._core.apply(edf._core.find_op("sum_to_sgd"), (p, x), edf._describe.Attrs((4,)))


def test_a_sum_of_products_refuses_what_it_cannot_do() -> None:
    op = edf._core.find_op("matmul_sum")
    a, b, c = (edf.Tensor(np.ones(shape)) for shape in ((2, 81), (81, 3), (2, 3)))
    with pytest.raises(edf.ShapeError, match=r"\[matmul_sum\] 2 products of depth 81: more than 160 in all"):
        edf._core.apply(op, (c, a, b, a, b))
    with pytest.raises(edf.ShapeError, match=r"takes c and pairs of matrices, and not 2 inputs"):
        edf._core.apply(op, (c, a))
    with pytest.raises(edf.ShapeError, match=r"c has shape \(2, 81\) and a product has shape \(2, 3\)"):
        edf._core.apply(op, (a, a, b))


def test_operations_and_bytes_are_counted() -> None:
    x = edf.Input()
    W, b = edf.Parameter(np.ones((37, 5))), edf.Parameter(np.ones(5))
    edf.Affine([W, b], x)
    x.value = np.ones((4, 37))
    plan = edf.plan()
    assert plan.flops == 2 * 4 * 37 * 5 + 4 * 5
    assert plan.bytes_moved == 4 * (4 * 37 + 37 * 5 + 5 + 4 * 5)
    assert plan.steps == plan.groups == 1


@pytest.mark.parametrize(("activation", "kept"), [(edf.Relu, 1), (edf.Tanh, 1), (edf.Softplus, 2)])
def test_memory_is_shared(activation: Any, kept: int) -> None:
    """Of each layer's two values and two gradients one is kept for the way back, or two; gradients take turns."""
    x, y, loss = mlp([100, *[100] * 20, 5], activation)
    x.value, y.value = np.ones((256, 100)), np.zeros(256, int)
    plan = edf.plan(loss)
    edf.keep("all")
    edf.Forward()
    edf.Backward(loss)
    edf.keep("looked")
    intermediates = sum(n.value.nbytes + n.grad.nbytes for n in edf.CompNodes)
    assert plan.arena_bytes < (kept / 4 + 0.1) * intermediates
    assert plan.arena_bytes < plan.separate_bytes


@pytest.mark.parametrize("name", sorted(op.name for op in edf._core.all_ops() if op.unread))
def test_what_a_kernel_is_said_not_to_read_it_does_not_read(name: str, device: str) -> None:
    op = edf._core.find_op(name)
    random = np.random.default_rng(7)
    several = op.arity if op.arity >= 0 else 3
    arrays = [random.uniform(0.5, 2.0, 50).astype(np.float32) for _ in range(several)]
    want = edf._core.apply(op, tuple(map(edf.Tensor, arrays))).numpy()
    for i in range(several):
        if op.unread >> i & 1:
            arrays[i] = np.full(50, np.nan, np.float32)
    assert np.array_equal(edf._core.apply(op, tuple(map(edf.Tensor, arrays))).numpy(), want)


def test_updates_come_as_soon_as_they_can() -> None:
    lines = str(planned(mlp([37, 6, 5, 5]))).splitlines()
    updates = [i for i, line in enumerate(lines) if "in place" in line]
    products = [i for i, line in enumerate(lines) if " matmul nt" in line]
    assert updates[0] < products[-1], "before the last gradient is there"


def test_planning_changes_nothing(device: str) -> None:
    x, y, loss = mlp([37, 6, 5])
    x.value, y.value = examples(4)
    edf.Forward()
    edf.Backward(loss)
    values = [n.value.copy() for n in edf.CompNodes]
    grads = [p.grad.copy() for p in edf.Parameters]
    nodes = edf.live_nodes()
    edf.plan(loss)
    assert edf.live_nodes() == nodes
    assert all(np.array_equal(a, n.value) for a, n in zip(values, edf.CompNodes, strict=True))
    assert all(np.array_equal(a, p.grad) for a, p in zip(grads, edf.Parameters, strict=True))
