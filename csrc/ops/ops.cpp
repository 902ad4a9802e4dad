// The list of ops as data: what ops.h names, in one array.
#include "ops/ops.h"

namespace edfcore::ops {

namespace {

#define EDF_LIST_OP(name) &name,
#define EDF_LIST_UNARY(name, functor, reads) &name, &name##_grad, &name##_grad2,
constexpr const Op* list[] = {EDF_OPS(EDF_LIST_OP) EDF_UNARY_OPS(EDF_LIST_UNARY)};
#undef EDF_LIST_UNARY
#undef EDF_LIST_OP

}  // namespace

std::span<const Op* const> all() { return list; }

const Op* find(std::string_view name) {
  for (const Op* op : list)
    if (name == op->name) return op;
  return nullptr;
}

std::int32_t index_of(const Op& op) {
  std::int32_t i = 0;
  while (list[i] != &op) ++i;
  return i;
}

}  // namespace edfcore::ops
