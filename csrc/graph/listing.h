// A program's list of nodes as words that can be hashed and compared: what plans are found again by, however
// often the program rebuilds its graph.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "graph/node.h"

namespace edfcore {

struct Listing {
  std::vector<NodeRef> nodes;   // in the order in which they run
  std::vector<NodeRef> leaves;  // what they read, but for numbers, in the order in which it is first read
  std::vector<std::uint64_t> structure, shapes;  // of the nodes; of the leaves

  bool same_nodes(std::span<Node* const> others) const;

  bool has(const Node& node) const { return at(nodes, node); }
  bool has_leaf(const Node& node) const { return at(leaves, node); }

 private:
  static bool at(const std::vector<NodeRef>& list, const Node& node) {
    const auto i = static_cast<std::size_t>(node.position);
    return node.position >= 0 && i < list.size() && list[i].get() == &node;
  }
};

// Lists the nodes, and writes everyone's place into Node::position. False when a plan cannot run them: one
// reads an object of the user's, a node that is not listed before it, or a tensor that collects gradients.
bool list_nodes(std::span<Node* const> nodes, Listing& listing);

// The same for a list that others have a say in, where the nodes may read their objects. `begins` are the
// nodes before which somebody else has his turn.
bool list_segments(std::span<Node* const> nodes, std::span<const std::int32_t> begins, Listing& listing);

// Writes down what a leaf looks like. `write_leaf`: false when it has no value, or it is on another device,
// or it has come to collect gradients.
void write_spec(Role role, const Spec& spec, std::vector<std::uint64_t>& words);
bool write_leaf(Node& leaf, Device device, std::vector<std::uint64_t>& words);

std::uint64_t hash_of(std::span<const std::uint64_t> words, std::uint64_t begin = 0);

// Writes down dtypes and shapes of the leaves. False when one has no value, or is on another device than the
// nodes. What objects outside will give is not known yet.
bool list_shapes(Listing& listing);

}  // namespace edfcore
