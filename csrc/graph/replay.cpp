// Running minibatches: the plan of each size is found or made, and bound to the program's own memory.
#include "graph/replay.h"

#include <algorithm>
#include <cstddef>
#include <unordered_map>

#include "device/memory.h"
#include "graph/grad.h"
#include "graph/run.h"
#include "graph/watch.h"
#include "ops/ops.h"

namespace edfcore {
namespace {

// What was written into arrays that stand for device memory goes there once, now: later it would undo
// updates.
void upload_leaves(const Replay& replay) {
  for (const NodeRef& node : replay.nodes)
    for (const Edge& edge : node->inputs)
      if (!edge.node->op && edge.node->value()) edge.node->value().on_device();
  for (const NodeRef& parameter : replay.parameters) parameter->value().on_device();
}

// Computed values and gradients are of no minibatch that anybody saw; parameters have new values.
void forget_values(const Replay& replay) {
  for (const NodeRef& node : replay.nodes) {
    node->output.value.set({});
    zero_grad(*node);
    node->has_grad = node->elided = false;
  }
  for (const NodeRef& parameter : replay.parameters) {
    ++parameter->value().tensor.buffer->version;
    parameter->value().updated();
    zero_grad(*parameter);
    parameter->has_grad = false;
  }
}

// Everything that a plan for minibatches of this size hangs on. False where it hangs on more than words say.
bool write_key(const Replay& replay, const Listing& listing, std::int64_t size,
               std::vector<std::uint64_t>& words) {
  const Device device = replay.rows.device();
  words = listing.structure;
  for (const std::int64_t word :
       {static_cast<std::int64_t>(device.type), static_cast<std::int64_t>(device.index),
        static_cast<std::int64_t>(replay.rule.kind), std::int64_t{watch().on}, size,
        std::int64_t{replay.loss->position}})
    words.push_back(static_cast<std::uint64_t>(word));
  for (const NodeRef& leaf : listing.leaves) {
    std::size_t i = 0;
    while (i < replay.feeds.size() && !(replay.feeds[i].input == leaf)) ++i;
    words.push_back(i);
    if (i < replay.feeds.size())
      write_spec(leaf->role, replay.feeds[i].examples.spec, words);
    else if (!write_leaf(*leaf, device, words))
      return false;
  }
  for (const NodeRef& parameter : replay.parameters) {
    const bool listed = listing.has_leaf(*parameter);
    words.push_back(listed ? static_cast<std::uint64_t>(parameter->position) : ~std::uint64_t{0});
    if (!listed && !write_leaf(*parameter, device, words)) return false;
  }
  return true;
}

std::shared_ptr<Batches> compiled_for(const Replay& replay, const Listing& listing, std::int64_t size) {
  Program program{replay.nodes, replay.parameters, replay.rule.kind, replay.loss, {}};
  const Device device = replay.rows.device();
  std::unordered_map<const Node*, std::size_t> source_of;
  std::size_t sources = 0;
  for (const NodeRef& leaf : listing.leaves) source_of.emplace(leaf.get(), sources++);
  for (const NodeRef& parameter : replay.parameters) source_of.emplace(parameter.get(), sources++);
  const NodeRef rows = make_leaf(Role::constant, allocate({DType::i64, Shape{size}}, device));
  for (const Feed& feed : replay.feeds) {
    const NodeRef examples = make_leaf(Role::constant, feed.examples);
    source_of.emplace(examples.get(), sources++);
    program.feeds[feed.input.get()] = make_node(ops::gather_rows, {{examples, 0}, {rows, 0}}, {});
  }
  Traced traced = trace_program(program);
  const auto position =
      std::find(replay.nodes.begin(), replay.nodes.end(), replay.loss) - replay.nodes.begin();
  const std::int32_t loss_value = traced.values[static_cast<std::size_t>(position)];
  const std::int32_t loss = traced.trace.keep(loss_value);
  const Spec losses = traced.trace.values[static_cast<std::size_t>(loss_value)].spec;
  // What is watched runs one by one and finds its inputs as they were; parameters move when all has been
  // seen.
  const bool free = !watch().on;
  const CompileOptions options{
      .blocks = free, .inplace = free, .stops = free ? Stops::nowhere : Stops::phases};
  auto made = std::make_shared<Batches>(compile(std::move(traced.trace), options));
  made->loss = loss;
  made->losses = losses;
  if (device.type != DeviceType::cpu) {
    made->rows_here = rows->value().tensor;
    made->losses_here = allocate(losses, device);
  }
  made->parts = std::move(traced.parts);
  for (std::size_t i = 0; i < traced.leaves.size(); ++i) {
    const NodeRef& leaf = traced.leaves[i];
    if (!leaf) continue;
    const auto slot = static_cast<std::int32_t>(i);
    const auto found = source_of.find(leaf.get());
    if (leaf == rows)
      made->rows = slot;
    else if (found != source_of.end())
      made->bound.push_back({slot, found->second});
    else
      made->own.emplace_back(slot, leaf);
  }
  return made;
}

void bind(Batches& batches, std::span<void* const> sources, const Updating& updating) {
  for (const Batches::Bound& bound : batches.bound) batches.runner.bind(bound.slot, sources[bound.source]);
  for (const auto& [slot, leaf] : batches.own) batches.runner.bind(slot, leaf->value().tensor.data());
  batches.runner.bind(batches.parts, updating);
}

}  // namespace

std::shared_ptr<Batches> ReplayCache::find(const Replay& replay, const Listing& listing, bool listed,
                                           std::int64_t size) {
  std::vector<std::uint64_t> key;
  if (!listed || !write_key(replay, listing, size, key)) {
    ++stats.compiled;
    return compiled_for(replay, listing, size);
  }
  const std::uint64_t hash = hash_of(key);
  for (const std::shared_ptr<Batches>& batches : kept_) {
    if (batches->hash != hash || batches->key != key) continue;
    ++stats.hits;
    batches->last_used = ++clock_;
    return batches;
  }
  ++stats.misses;
  std::shared_ptr<Batches> made = compiled_for(replay, listing, size);
  ++stats.compiled;
  made->key = std::move(key);
  made->hash = hash;
  made->last_used = ++clock_;
  if (kept_.size() >= most)
    kept_.erase(std::min_element(kept_.begin(), kept_.end(),
                                 [](const auto& a, const auto& b) { return a->last_used < b->last_used; }));
  kept_.push_back(made);
  return made;
}

Tensor ReplayCache::run(const Replay& replay) {
  upload_leaves(replay);
  std::vector<Node*> nodes, parameters;
  for (const NodeRef& node : replay.nodes) nodes.push_back(node.get());
  for (const NodeRef& parameter : replay.parameters) parameters.push_back(parameter.get());
  Listing listing;
  const bool listed = list_nodes(nodes, listing);
  if (!listed) listing = {};
  try {
    return run_all(replay, listing, listed, parameters);
  } catch (...) {
    forget_values(replay);
    throw;
  }
}

Tensor ReplayCache::run_all(const Replay& replay, const Listing& listing, bool listed,
                            std::span<Node* const> parameters) {
  std::vector<void*> sources;
  for (const NodeRef& leaf : listing.leaves)
    sources.push_back(leaf->value() ? leaf->value().tensor.data() : nullptr);
  for (const Node* parameter : parameters) sources.push_back(parameter->output.value.tensor.data());
  for (const Feed& feed : replay.feeds) sources.push_back(feed.examples.data());

  const Device device = replay.rows.device();
  const std::int64_t count = replay.rows.spec.shape[0];
  Updating updating(parameters, replay.rule, numbers_);
  std::shared_ptr<Batches> batches;
  Tensor losses;
  std::size_t filled = 0;
  double work = 0;
  for (std::int64_t begin = 0; begin < count; begin += replay.batch_size) {
    const std::int64_t size = std::min(replay.batch_size, count - begin);
    if (begin == 0 || size < replay.batch_size) {  // the first, and the last
      batches = find(replay, listing, listed, size);
      bind(*batches, sources, updating);
      const bool single = batches->losses.shape.rank() == 0;
      if (!single && !(batches->losses.shape == Shape{size}))
        fail(ErrorKind::shape, "replay: the loss has shape ", batches->losses.shape, " for ", size,
             " examples: it must have one value for each, or one in all.");
      const std::int64_t all = single ? (count + replay.batch_size - 1) / replay.batch_size : count;
      if (!losses) losses = allocate({batches->losses.dtype, Shape{all}}, device);
    }
    Runner& runner = batches->runner;
    void* rows = static_cast<std::int64_t*>(replay.rows.data()) + begin;
    void* const loss = static_cast<std::byte*>(losses.data()) + filled;
    const bool alike = static_cast<bool>(batches->rows_here);
    if (alike) {
      const std::size_t bytes = static_cast<std::size_t>(size) * sizeof(std::int64_t);
      backend(device).copy(batches->rows_here.data(), rows, bytes);
      rows = batches->rows_here.data();
    }
    runner.bind(batches->rows, rows);
    runner.bind(batches->loss, alike ? batches->losses_here.data() : loss);
    try {
      runner.run(replay.nodes, updating.next());
    } catch (const Error& error) {
      throw Error(error.kind(),
                  text(error.what(), " In replay, at examples ", begin, " to ", begin + size - 1,
                       " of the order: no minibatch from here on was learnt from."));
    }
    if (alike) backend(device).copy(loss, batches->losses_here.data(), batches->losses.bytes());
    updating.taken();
    filled += batches->losses.bytes();
    work += runner.work();
    if (work < poll_after || !replay.poll) continue;
    replay.poll();
    work = 0;
  }
  if (device.type != DeviceType::cpu) {
    check_status(device);
    losses = copy_to(losses, cpu_device);
  }
  forget_values(replay);
  return losses;
}

}  // namespace edfcore
