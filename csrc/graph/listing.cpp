// Writing down what a program's list of nodes looks like.
#include "graph/listing.h"

#include <bit>

#include "ops/op.h"

namespace edfcore {
namespace {

using Words = std::vector<std::uint64_t>;

std::uint64_t bits(double x) { return std::bit_cast<std::uint64_t>(x); }

// Of the inputs: a listed node, counted backwards; a leaf; a number, which follows.
enum Kind : std::uint64_t { listed, leaf, number };

void write_attrs(const Attrs& attrs, std::size_t n_inputs, Words& words) {
  const bool scalars = bits(attrs.scalar) || bits(attrs.scalar2);  // -0.0 is another number than 0.0
  words.push_back(n_inputs | std::uint64_t{static_cast<std::uint8_t>(attrs.n_ints)} << 16 |
                  std::uint64_t{static_cast<std::uint8_t>(attrs.dtype)} << 24 |
                  std::uint64_t{attrs.keepdims} << 32 | std::uint64_t{attrs.trans_a} << 33 |
                  std::uint64_t{attrs.trans_b} << 34 | std::uint64_t{scalars} << 35);
  for (std::int32_t i = 0; i < attrs.n_ints; ++i) words.push_back(static_cast<std::uint64_t>(attrs.ints[i]));
  if (!scalars) return;
  words.push_back(bits(attrs.scalar));
  words.push_back(bits(attrs.scalar2));
}

}  // namespace

bool Listing::same_nodes(std::span<Node* const> others) const {
  if (others.size() != nodes.size()) return false;
  for (std::size_t i = 0; i < others.size(); ++i)
    if (others[i] != nodes[i].get()) return false;
  return true;
}

std::uint64_t hash_of(std::span<const std::uint64_t> words, std::uint64_t begin) {
  std::uint64_t hash = begin ^ words.size();
  for (const std::uint64_t word : words) {
    hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 29;
  }
  return hash;
}

static bool list(std::span<Node* const> nodes, bool hosts, Listing& listing) {
  let_go(listing.nodes);
  listing.leaves.clear();
  Words& words = listing.structure;
  const std::uint64_t mark = next_mark();
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    Node& node = *nodes[i];
    if (node.mark == mark || node.op->outputs != 1 || !(node.device == nodes[0]->device)) return false;
    words.push_back(reinterpret_cast<std::uintptr_t>(node.op));
    write_attrs(node.attrs, node.inputs.size(), words);
    for (const Edge& edge : node.inputs) {
      Node& input = *edge.node;
      if (input.role == Role::number) {
        words.push_back(number | static_cast<std::uint64_t>(input.attrs.n_ints) << 2);
        words.push_back(bits(input.attrs.scalar));
        if (input.attrs.n_ints) words.push_back(static_cast<std::uint64_t>(input.attrs.ints[0]));
        continue;
      }
      if (input.mark != mark) {
        const bool host = hosts && input.role == Role::host && input.device == nodes[0]->device;
        const bool collects = input.requires_grad && input.role != Role::parameter;
        if (!host && (input.role == Role::computed || input.role == Role::host || collects)) return false;
        input.mark = mark;
        input.position = static_cast<std::int32_t>(listing.leaves.size());
        listing.leaves.push_back(edge.node);
      }
      const auto position = static_cast<std::uint64_t>(input.position);
      words.push_back(input.op ? listed | (i - position) << 2 : leaf | position << 2);
    }
    node.mark = mark;
    node.position = static_cast<std::int32_t>(i);
    listing.nodes.emplace_back(&node);
  }
  return true;
}

bool list_nodes(std::span<Node* const> nodes, Listing& listing) {
  listing.structure.clear();
  return list(nodes, false, listing);
}

bool list_segments(std::span<Node* const> nodes, std::span<const std::int32_t> begins, Listing& listing) {
  Words& words = listing.structure;
  words.assign({~std::uint64_t{0}, begins.size()});  // no op begins like this
  for (const std::int32_t begin : begins) words.push_back(static_cast<std::uint64_t>(begin));
  return list(nodes, true, listing);
}

void write_spec(Role role, const Spec& spec, Words& words) {
  words.push_back(static_cast<std::uint64_t>(role) | static_cast<std::uint64_t>(spec.dtype) << 8 |
                  static_cast<std::uint64_t>(spec.shape.rank()) << 16);
  for (const std::int64_t dim : spec.shape) words.push_back(static_cast<std::uint64_t>(dim));
}

bool write_leaf(Node& leaf, Device device, Words& words) {
  const Cell& cell = leaf.value();
  if (!cell || !(cell.tensor.device() == device)) return false;
  if (leaf.requires_grad && leaf.role != Role::parameter) return false;  // may have been switched on since
  write_spec(leaf.role, leaf.output.spec, words);
  return true;
}

bool list_shapes(Listing& listing) {
  Words& words = listing.shapes;
  words.clear();
  if (listing.nodes.empty()) return false;
  const Device device = listing.nodes[0]->device;
  words.push_back(static_cast<std::uint64_t>(device.type) |
                  std::uint64_t{static_cast<std::uint8_t>(device.index)} << 8);
  for (const NodeRef& leaf : listing.leaves) {
    if (leaf->role == Role::host)
      words.push_back(static_cast<std::uint64_t>(Role::host));
    else if (!write_leaf(*leaf, device, words))
      return false;
  }
  return true;
}

}  // namespace edfcore
