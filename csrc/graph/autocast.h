// Autocast: while it is on, inputs of the nodes that are made are converted as their ops say, by nodes of
// their own. What the reverse walk and plans make is never converted anew.
#pragma once

#include <optional>

#include "graph/node.h"

namespace edfcore {

// The half type that products are computed in by the nodes of this thread; nothing where autocast is off.
std::optional<DType>& autocast_dtype();

// What the nodes that convert inputs of this op are asked for; nothing where none are needed.
std::optional<Attrs> autocast_of(const Op& op);

// Whether such a node goes before input `i`, which may be null where no node stands behind it yet.
bool autocasts(const Op& op, std::size_t i, const Node* input);

}  // namespace edfcore
