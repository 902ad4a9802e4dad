// Google Benchmark over the C++ library: products, softmax, cross-entropy, elementwise ops, and a whole
// training step, on the CPU and, in rows named cuda, on the first GPU. Every op runs as a node that is run
// again and again, as an eager loop would. A GPU is given several runs before it is waited for.
#include <benchmark/benchmark.h>

#include <initializer_list>
#include <random>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "device/backend.h"
#include "device/memory.h"
#include "graph/run.h"
#include "graph/session.h"
#include "ops/ops.h"

namespace {

using namespace edfcore;

Tensor random_floats(const Shape& shape, Device device) {
  static std::mt19937 generator(0);
  std::normal_distribution<float> normal;
  const Tensor host = allocate({DType::f32, shape}, cpu_device);
  auto* const values = static_cast<float*>(host.data());
  for (std::int64_t i = 0; i < shape.size(); ++i) values[i] = normal(generator);
  return copy_to(host, device);
}

Tensor random_labels(std::int64_t count, std::int64_t classes, Device device) {
  static std::mt19937 generator(1);
  std::uniform_int_distribution<std::int64_t> uniform(0, classes - 1);
  const Tensor host = allocate({DType::i64, {count}}, cpu_device);
  auto* const values = static_cast<std::int64_t*>(host.data());
  for (std::int64_t i = 0; i < count; ++i) values[i] = uniform(generator);
  return copy_to(host, device);
}

NodeRef make(const Op& op, std::initializer_list<NodeRef> inputs, const Attrs& attrs = {}) {
  Edges edges;
  for (const NodeRef& input : inputs) edges.push_back({input, 0});
  NodeRef node = make_node(op, std::move(edges), attrs);
  node->device = node->inputs[0].node->device;
  return node;
}

NodeRef leaf(Tensor tensor, Role role = Role::input) { return make_leaf(role, std::move(tensor)); }

double bytes_of(const Node& node) {
  double bytes = static_cast<double>(node.output.spec.bytes());
  for (const Edge& edge : node.inputs) bytes += static_cast<double>(edge.node->output.spec.bytes());
  return bytes;
}

// Runs `once` again and again. On a GPU, which is waited for at the end of every batch of them, the simulated
// one aside, which has nothing to wait for.
template <class Once>
void time_batches(benchmark::State& state, Device device, const Once& once) {
  const bool simulated = std::string(cuda_build()) == "sim";
  const benchmark::IterationCount batch = device.type == DeviceType::cpu || simulated ? 1 : 64;
  while (state.KeepRunningBatch(batch)) {
    for (benchmark::IterationCount i = 0; i < batch; ++i) once();
    if (device.type != DeviceType::cpu) check_status(device);  // waits
  }
}

void time_node(benchmark::State& state, Node& node, double flops = 0) {
  run(node);
  time_batches(state, node.device, [&] { run(node); });
  const auto rounds = static_cast<double>(state.iterations());
  if (flops > 0) state.counters["FLOP/s"] = {flops * rounds, benchmark::Counter::kIsRate};
  state.counters["bytes/s"] = {bytes_of(node) * rounds, benchmark::Counter::kIsRate,
                               benchmark::Counter::kIs1024};
}

void matmul(benchmark::State& state, Device device, bool trans_a, bool trans_b) {
  const std::int64_t m = state.range(0), k = state.range(1), n = state.range(2);
  Attrs attrs;
  attrs.trans_a = trans_a;
  attrs.trans_b = trans_b;
  const NodeRef a = leaf(random_floats(trans_a ? Shape{k, m} : Shape{m, k}, device));
  const NodeRef b = leaf(random_floats(trans_b ? Shape{n, k} : Shape{k, n}, device));
  time_node(state, *make(ops::matmul, {a, b}, attrs), 2.0 * static_cast<double>(m * k * n));
}

void rows(benchmark::State& state, Device device, const Op& op) {
  time_node(state, *make(op, {leaf(random_floats({state.range(0), state.range(1)}, device))}));
}

void cross_entropy(benchmark::State& state, Device device, bool backward) {
  const std::int64_t count = state.range(0), classes = state.range(1);
  const NodeRef scores = leaf(random_floats({count, classes}, device));
  const NodeRef labels = leaf(random_labels(count, classes, device));
  if (!backward) return time_node(state, *make(ops::log_loss_scores, {scores, labels}));
  const NodeRef grad = leaf(random_floats({count}, device));
  time_node(state, *make(ops::log_loss_scores_grad, {grad, scores, labels}));
}

void unary(benchmark::State& state, Device device, const Op& op) {
  time_node(state, *make(op, {leaf(random_floats({state.range(0)}, device))}));
}

void binary(benchmark::State& state, Device device, const Op& op) {
  const Shape shape{state.range(0)};
  time_node(state, *make(op, {leaf(random_floats(shape, device)), leaf(random_floats(shape, device))}));
}

// Forward, backward and the update of inputs-hidden-classes with relu, as the session plans them.
void step(benchmark::State& state, Device device) {
  const std::int64_t inputs = state.range(0), hidden = state.range(1), classes = state.range(2),
                     batch = state.range(3);
  const NodeRef x = leaf(random_floats({batch, inputs}, device));
  const NodeRef y = leaf(random_labels(batch, classes, device));
  std::vector<NodeRef> parameters, nodes;
  const auto parameter = [&](const Shape& shape) {
    NodeRef made = leaf(random_floats(shape, device), Role::parameter);
    made->requires_grad = true;
    parameters.push_back(made);
    return made;
  };
  const auto record = [&](NodeRef made) {
    made->recorded = true;
    nodes.push_back(made);
    return made;
  };
  const NodeRef w1 = parameter({inputs, hidden}), b1 = parameter({hidden});
  const NodeRef w2 = parameter({hidden, classes}), b2 = parameter({classes});
  const NodeRef h = record(make(ops::relu, {record(make(ops::affine, {x, w1, b1}))}));
  const NodeRef loss = record(make(ops::log_loss_scores, {record(make(ops::affine, {h, w2, b2})), y}));
  std::vector<Node*> listed, updated;
  for (const NodeRef& node : nodes) listed.push_back(node.get());
  for (const NodeRef& node : parameters) updated.push_back(node.get());
  Rule rule;
  rule.rate = 1e-6;
  const auto once = [&] {
    session().forward(listed);
    session().backward(listed, updated, *loss);
    session().update(updated, rule);
    session().finish();
  };
  for (int i = 0; i < 4; ++i) once();  // from the third on it is a plan
  time_batches(state, device, once);
  session().leave();
}

// On a GPU larger ones, too, which fill it.
void add_all(const std::string& name, Device device) {
  using Sizes = std::vector<std::vector<std::int64_t>>;
  const bool gpu = device.type != DeviceType::cpu;
  const auto several = [gpu](auto* row, const Sizes& all, const Sizes& large) {
    for (const auto& sizes : all) row->Args(sizes);
    if (gpu)
      for (const auto& sizes : large) row->Args(sizes);
  };
  const auto add = [&](const std::string& what, auto function, auto... arguments) {
    return benchmark::RegisterBenchmark((what + "/" + name).c_str(), function, device, arguments...)
        ->UseRealTime();
  };
  for (const bool ta : {false, true})
    for (const bool tb : {false, true}) {
      const std::string layout = std::string(ta ? "t" : "n") + (tb ? "t" : "n");
      several(add("matmul_" + layout, matmul, ta, tb),
              {{32, 784, 128}, {128, 784, 128}, {512, 784, 1024}, {1024, 1024, 1024}},
              {{4096, 4096, 4096}, {8192, 8192, 8192}});
    }
  const Sizes some = {{128, 10}, {4096, 100}, {512, 10000}}, more = {{32768, 1024}, {8192, 32768}};
  for (const Op* op : {&ops::softmax, &ops::log_softmax})
    several(add(op->name, rows, std::cref(*op)), some, more);
  several(add("cross_entropy", cross_entropy, false), some, more);
  several(add("cross_entropy_grad", cross_entropy, true), some, more);
  const Sizes lengths = {{1 << 12}, {1 << 16}, {1 << 24}}, long_ones = {{1 << 28}};
  for (const Op* op : {&ops::relu, &ops::tanh, &ops::sigmoid, &ops::gelu, &ops::exp})
    several(add(op->name, unary, std::cref(*op)), lengths, long_ones);
  for (const Op* op : {&ops::add, &ops::mul})
    several(add(op->name, binary, std::cref(*op)), lengths, long_ones);
  several(add("step", step), {{4, 8, 2, 1}, {784, 128, 10, 1}, {784, 128, 10, 32}, {784, 512, 10, 128}},
          {{784, 256, 10, 64}, {784, 1024, 10, 512}});
}

}  // namespace

int main(int argc, char** argv) {
  add_all("cpu", cpu_device);
  const Device gpu{DeviceType::cuda, 0};
  if (cuda_device_count() > 0) add_all("cuda", gpu);
  if (cuda_device_count() > 0) benchmark::AddCustomContext("cuda:0", cuda_device_description(0));
  benchmark::AddCustomContext("threads", std::to_string(num_threads()));
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
