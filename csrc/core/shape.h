// The sizes of a tensor's axes: a small fixed array, never on the heap.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <iosfwd>
#include <span>
#include <string>

namespace edfcore {

inline constexpr int max_rank = 8;

class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims);
  explicit Shape(std::span<const std::int64_t> dims);  // throws a shape error beyond max_rank

  int rank() const { return rank_; }
  std::int64_t operator[](int axis) const { return dims_[axis < 0 ? axis + rank_ : axis]; }
  std::int64_t& operator[](int axis) { return dims_[axis < 0 ? axis + rank_ : axis]; }
  const std::int64_t* data() const { return dims_.data(); }
  const std::int64_t* begin() const { return dims_.data(); }
  const std::int64_t* end() const { return dims_.data() + rank_; }
  std::int64_t size() const {  // number of elements; 1 for rank 0
    std::int64_t product = 1;
    for (const std::int64_t dim : *this) {
      if ((product | dim) >> 31) return checked_size();
      product *= dim;
    }
    return product;
  }
  void push_back(std::int64_t dim);
  std::string str() const;  // "(32, 784)", "(3,)", "()"

  friend bool operator==(const Shape& a, const Shape& b);

 private:
  std::int64_t checked_size() const;  // throws a shape error where there are too many to count

  std::array<std::int64_t, max_rank> dims_{};
  int rank_ = 0;
};

std::ostream& operator<<(std::ostream& out, const Shape& shape);

}  // namespace edfcore
