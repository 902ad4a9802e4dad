// Shape: construction with its one check, and printing.
#include "core/shape.h"

#include <algorithm>
#include <ostream>

#include "core/error.h"

namespace edfcore {
namespace {

constexpr std::int64_t most_elements = std::int64_t{1} << 59;  // so that their bytes can be counted

}  // namespace

Shape::Shape(std::initializer_list<std::int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}

Shape::Shape(std::span<const std::int64_t> dims) {
  for (std::int64_t dim : dims) push_back(dim);
}

void Shape::push_back(std::int64_t dim) {
  if (rank_ == max_rank) fail(ErrorKind::shape, "a tensor has at most ", max_rank, " axes.");
  dims_[rank_++] = dim;
}

std::int64_t Shape::checked_size() const {
  std::int64_t product = 1;
  for (std::int64_t dim : *this)
    if (dim == 0) return 0;
  for (std::int64_t dim : *this) {
    const bool small = ((product | dim) >> 31) == 0;  // a division takes longer than all the rest
    if (!small && product > most_elements / dim)
      fail(ErrorKind::shape, "shape ", *this, " has too many elements.");
    product *= dim;
  }
  return product;
}

std::string Shape::str() const {
  std::string out = "(";
  for (int axis = 0; axis < rank_; ++axis) {
    if (axis > 0) out += ", ";
    out += std::to_string(dims_[axis]);
  }
  return out + (rank_ == 1 ? ",)" : ")");
}

bool operator==(const Shape& a, const Shape& b) {
  return a.rank_ == b.rank_ && std::equal(a.begin(), a.end(), b.begin());
}

std::ostream& operator<<(std::ostream& out, const Shape& shape) { return out << shape.str(); }

}  // namespace edfcore
