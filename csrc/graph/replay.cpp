// Running minibatches: the plan of each size is found or made, and bound to the program's own memory.
#include "graph/replay.h"

#include <algorithm>
#include <bit>
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

// How many minibatches a GPU is given at once, if there are as many: beyond so many launches, nothing is won.
std::int64_t most_together(const Plan& plan) {
  constexpr std::int64_t most = 16, launches = 1024;
  const auto groups = static_cast<std::int64_t>(plan.groups.size());
  return std::clamp(launches / std::max<std::int64_t>(groups, 1), std::int64_t{1}, most);
}

// Everything that a plan for minibatches of this size hangs on. False where it hangs on more than words say.
bool write_key(const Replay& replay, const Listing& listing, std::int64_t size,
               std::vector<std::uint64_t>& words) {
  const Device device = replay.device;
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
  const Device device = replay.device;
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
    if (free) made->together = most_together(made->runner.plan());
    made->rows_here = allocate({DType::i64, Shape{made->together * (size + 1)}}, device);
    const auto bytes = static_cast<std::int64_t>(losses.bytes());
    made->losses_here = allocate({DType::u8, Shape{made->together * bytes}}, device);
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

// One call, whose minibatches are numbered from 0.
class ReplayCache::Epoch {
 public:
  Epoch(ReplayCache& cache, const Replay& replay, const Listing& listing, bool listed,
        std::span<Node* const> parameters)
      : cache_(cache),
        replay_(replay),
        listing_(listing),
        listed_(listed),
        parameters_(parameters),
        count_(replay.rows.spec.shape[0]),
        on_cpu_(replay.device.type == DeviceType::cpu),
        updating_(parameters, replay.rule, cache.numbers_) {
    for (const NodeRef& leaf : listing.leaves)
      sources_.push_back(leaf->value() ? leaf->value().tensor.data() : nullptr);
    for (const Node* parameter : parameters) sources_.push_back(parameter->output.value.tensor.data());
    for (const Feed& feed : replay.feeds) sources_.push_back(feed.examples.data());
  }

  Tensor run() {
    if (!on_cpu_) upload_rows();
    double work = 0;
    for (std::int64_t n = 0; begin_of(n) < count_;) {
      Batches& batches = of(n);
      const std::int64_t runs = together(batches, n);
      run_some(batches, n, runs);
      n += runs;
      work += batches.runner.work() * static_cast<double>(runs);
      if (work < poll_after || !replay_.poll) continue;
      replay_.poll();
      work = 0;
    }
    if (on_cpu_) return losses_;
    const Status met = take_status(replay_.device);
    if (met.code != Status::ok && met.step < 0) of(0).runner.raise(met, replay_.nodes);  // no minibatch's
    if (met.code != Status::ok) placed(met.run, 1, [&] { of(met.run).runner.raise(met, replay_.nodes); });
    return copy_to(losses_, cpu_device);
  }

 private:
  std::int64_t begin_of(std::int64_t n) const { return n * replay_.batch_size; }
  std::int64_t size_of(std::int64_t n) const { return std::min(replay_.batch_size, count_ - begin_of(n)); }

  // The plan for a minibatch: there is one for whole ones, and one for the rest.
  Batches& of(std::int64_t n) {
    const std::int64_t size = size_of(n);
    std::shared_ptr<Batches>& batches = size == replay_.batch_size ? whole_ : rest_;
    if (batches) return *batches;
    batches = cache_.find(replay_, listing_, listed_, size);
    bind(*batches, sources_, updating_);
    const Spec& losses = batches->losses;
    const bool single = losses.shape.rank() == 0;
    if (!single && !(losses.shape == Shape{size}))
      fail(ErrorKind::shape, "replay: the loss has shape ", losses.shape, " for ", size,
           " examples: it must have one value for each, or one in all.");
    const std::int64_t all = single ? (count_ + replay_.batch_size - 1) / replay_.batch_size : count_;
    if (!losses_) losses_ = allocate({losses.dtype, Shape{all}}, replay_.device);
    return *batches;
  }

  // Whatever an epoch's length, there are a few numbers of minibatches that come together.
  std::int64_t together(const Batches& batches, std::int64_t n) const {
    const std::int64_t most = std::min(batches.together, (count_ - begin_of(n)) / size_of(n));
    return static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(most)));
  }

  // Each minibatch's number, and then its rows.
  void upload_rows() {
    std::vector<std::int64_t> words;
    const auto* rows = static_cast<const std::int64_t*>(replay_.rows.data());
    for (std::int64_t n = 0; begin_of(n) < count_; ++n) {
      words.push_back(n);
      words.insert(words.end(), rows + begin_of(n), rows + begin_of(n) + size_of(n));
    }
    rows_ = allocate({DType::i64, Shape{static_cast<std::int64_t>(words.size())}}, replay_.device);
    backend(replay_.device).upload(rows_.data(), words.data(), rows_.spec.bytes());
  }

  // So many alike from this one on.
  void run_some(Batches& batches, std::int64_t first, std::int64_t count) {
    const std::size_t bytes = batches.losses.bytes();
    auto* loss = static_cast<std::byte*>(losses_.data()) + filled_;
    filled_ += static_cast<std::size_t>(count) * bytes;
    std::vector<Scalars> scalars;
    for (std::int64_t n = 0; n < count; ++n) {
      const std::span<const Scalars> next = updating_.next();
      scalars.insert(scalars.end(), next.begin(), next.end());
    }
    placed(first, count, [&] {
      if (on_cpu_) {
        auto* rows = static_cast<std::int64_t*>(replay_.rows.data()) + begin_of(first);
        return run_bound(batches, scalars, {1, {{batches.rows, rows, 0}, {batches.loss, loss, 0}}});
      }
      Backend& device = backend(replay_.device);
      const auto words = static_cast<std::size_t>(size_of(first)) + 1;
      auto* here = static_cast<std::int64_t*>(batches.rows_here.data());
      device.copy(here, static_cast<const std::int64_t*>(rows_.data()) + begin_of(first) + first,
                  static_cast<std::size_t>(count) * words * sizeof(std::int64_t));
      run_bound(batches, scalars,
                {count,
                 {{batches.rows, here + 1, words * sizeof(std::int64_t)},
                  {batches.loss, batches.losses_here.data(), bytes}},
                 here,
                 words});
      device.copy(loss, batches.losses_here.data(), static_cast<std::size_t>(count) * bytes);
    });
    updating_.taken();
  }

  void run_bound(Batches& batches, std::span<const Scalars> scalars, const Runs& runs) {
    batches.runner.run(replay_.nodes, scalars, Phase::forward, Phase::update, nullptr, runs);
  }

  // Adds the place in the order to what `action` throws.
  template <class Action>
  void placed(std::int64_t first, std::int64_t count, const Action& action) {
    try {
      action();
    } catch (const Error& error) {
      const std::int64_t last = first + count - 1;
      throw Error(error.kind(), text(error.what(), " In replay, at examples ", begin_of(first), " to ",
                                     begin_of(last) + size_of(last) - 1,
                                     " of the order: no minibatch from here on was learnt from."));
    }
  }

  ReplayCache& cache_;
  const Replay& replay_;
  const Listing& listing_;
  const bool listed_;
  const std::span<Node* const> parameters_;
  const std::int64_t count_;
  const bool on_cpu_;
  Updating updating_;
  std::vector<void*> sources_;  // of what is bound
  std::shared_ptr<Batches> whole_, rest_;
  Tensor rows_;  // on a GPU
  Tensor losses_;
  std::size_t filled_ = 0;  // bytes of them
};

Tensor ReplayCache::run(const Replay& replay) {
  std::vector<Node*> nodes, parameters;
  for (const NodeRef& node : replay.nodes) nodes.push_back(node.get());
  for (const NodeRef& parameter : replay.parameters) parameters.push_back(parameter.get());
  Listing listing;
  const bool listed = list_nodes(nodes, listing);
  if (!listed) listing = {};
  try {
    if (replay.device.type != DeviceType::cpu) check_status(replay.device);  // of what ran before
    upload_leaves(replay);
    const Tensor losses = Epoch(*this, replay, listing, listed, parameters).run();
    forget_values(replay);
    return losses;
  } catch (...) {
    forget_values(replay);
    throw;
  }
}

}  // namespace edfcore
