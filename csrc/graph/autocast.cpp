// Which conversions autocast puts before an op.
#include "graph/autocast.h"

namespace edfcore {

std::optional<DType>& autocast_dtype() {
  thread_local std::optional<DType> dtype;
  return dtype;
}

std::optional<Attrs> autocast_of(const Op& op) {
  if (!autocast_dtype() || op.autocast == Autocast::none) return {};
  Attrs attrs;
  attrs.dtype = *autocast_dtype();
  attrs.ints[0] = static_cast<std::int64_t>(op.autocast);
  attrs.n_ints = 1;
  return attrs;
}

bool autocasts(const Op& op, std::size_t i, const Node* input) {
  if (op.takes_index(i)) return false;
  if (!input) return true;
  // One that the op fuses with is left where it is: what they become computes as the op does.
  if (op.fuses && op.fuses->producer == input->op && op.fuses->input == static_cast<std::int32_t>(i) &&
      !is_half(input->output.spec.dtype))
    return false;
  if (input->role == Role::number) return false;
  const bool fixed = input->role == Role::parameter || !input->recorded;  // of a dtype that is known
  return !(fixed && op.autocast != Autocast::half && !is_half(input->output.spec.dtype));
}

}  // namespace edfcore
