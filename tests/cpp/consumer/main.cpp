// The slides' l = sqrt(x^2 + y^2) in C++, with nothing but what edfcore installs: values, gradients, an
// error.
#include <cmath>
#include <cstdio>
#include <initializer_list>

#include "core/error.h"
#include "device/memory.h"
#include "graph/grad.h"
#include "graph/node.h"
#include "graph/run.h"
#include "ops/ops.h"

namespace {

using namespace edfcore;

int failures = 0;

void check(bool holds, const char* what) {
  std::printf("%s: %s\n", holds ? "ok" : "FAILED", what);
  if (!holds) ++failures;
}

NodeRef leaf(std::initializer_list<double> values) {
  Tensor tensor = allocate({DType::f64, Shape{static_cast<std::int64_t>(values.size())}}, cpu_device);
  double* out = static_cast<double*>(tensor.data());
  for (double value : values) *out++ = value;
  NodeRef node = make_leaf(Role::input, std::move(tensor));
  node->requires_grad = true;
  return node;
}

// Makes a node and runs it at once.
NodeRef apply(const Op& op, std::initializer_list<NodeRef> inputs) {
  Edges edges;
  for (const NodeRef& input : inputs) edges.push_back({input, 0});
  NodeRef node = make_node(op, std::move(edges), {});
  run(*node);
  return node;
}

double at(const NodeRef& node, std::int64_t i) {
  return static_cast<const double*>(node->value().tensor.data())[i];
}

bool near(double a, double b) { return std::abs(a - b) < 1e-15; }

void distance() {
  const NodeRef x = leaf({3, 5}), y = leaf({4, 12});
  const NodeRef r = apply(ops::add, {apply(ops::square, {x}), apply(ops::square, {y})});
  const NodeRef l = apply(ops::sqrt, {r});
  check(at(l, 0) == 5 && at(l, 1) == 13, "l = sqrt(x^2 + y^2)");

  backward(*l, filled_like(*l, 1.0), false);
  check(near(at(x->output.grad, 0), 3.0 / 5) && near(at(x->output.grad, 1), 5.0 / 13), "dl/dx = x / l");
  check(near(at(y->output.grad, 0), 4.0 / 5) && near(at(y->output.grad, 1), 12.0 / 13), "dl/dy = y / l");

  backward(*l, filled_like(*l, 1.0), false);
  check(near(at(x->output.grad, 0), 6.0 / 5), "gradients of leaves accumulate over calls");
}

void fan_out() {
  const NodeRef x = leaf({0.5});
  const NodeRef y = apply(ops::exp, {x}), z = apply(ops::mul, {y, x});
  backward(*z, {}, false);
  check(std::abs(at(x->output.grad, 0) - std::exp(0.5) * 1.5) < 1e-14, "z = x e^x has gradient (1 + x) e^x");
}

void wrong_shapes() {
  try {
    apply(ops::add, {leaf({1, 2}), leaf({1, 2, 3})});
    check(false, "shapes that do not fit raise");
  } catch (const Error& error) {
    check(error.kind() == ErrorKind::shape, error.what());
  }
}

}  // namespace

int main() {
  distance();
  fan_out();
  wrong_shapes();
  check(live_nodes() == 0, "no node is left");
  return failures == 0 ? 0 : 1;
}
