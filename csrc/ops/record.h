// For the record files (ops/*.cpp): the checks that `infer` functions share and the short forms that vjps are
// written in.
#pragma once

#include <initializer_list>

#include "ops/declare.h"
#include "ops/op.h"
#include "ops/ops.h"

namespace edfcore::ops {

inline constexpr const char* how_to_convert = "convert with cast (or .astype).";

inline bool is_index(DType d) { return d == DType::i32 || d == DType::i64 || d == DType::u8; }

inline void need_floating(const Inference& inf, int input, const char* name) {
  const DType d = inf.in[input].dtype;
  if (is_floating(d)) return;
  inf.dtype_error(name, " has dtype ", dtype_name(d),
                  ": this op takes float32, float64, bfloat16 or float16; ", how_to_convert);
}

inline void need_numeric(const Inference& inf, int input, const char* name) {
  const DType d = inf.in[input].dtype;
  if (is_floating(d) || is_index(d)) return;
  inf.dtype_error(name, " has dtype ", dtype_name(d),
                  ": this op takes float32, float64, bfloat16, float16, int32, int64 or uint8; ",
                  how_to_convert);
}

inline void need_index(const Inference& inf, int input, const char* name) {
  const DType d = inf.in[input].dtype;
  if (is_index(d)) return;
  inf.dtype_error(name, " has dtype ", dtype_name(d), ": it must be int32, int64 or uint8; ", how_to_convert);
}

inline void need_same_dtype(const Inference& inf, int i, const char* a, int j, const char* b) {
  const DType d = inf.in[i].dtype, e = inf.in[j].dtype;
  if (d == e) return;
  inf.dtype_error(a, " has dtype ", dtype_name(d), " and ", b, " has dtype ", dtype_name(e),
                  ": they must be the same; ", how_to_convert);
}

inline void need_same_shape(const Inference& inf, int i, const char* a, int j, const char* b) {
  const Shape &s = inf.in[i].shape, &t = inf.in[j].shape;
  if (s == t) return;
  inf.shape_error(a, " has shape ", s, " and ", b, " has shape ", t, ": they must be the same.");
}

// What two shapes broadcast to, as in NumPy.
inline Shape broadcast_shape(const Inference& inf, const char* a_name, const Shape& a, const char* b_name,
                             const Shape& b) {
  const int rank = a.rank() > b.rank() ? a.rank() : b.rank();
  Shape shape;
  for (int i = 0; i < rank; ++i) {
    const int ia = i - (rank - a.rank()), ib = i - (rank - b.rank());
    const std::int64_t m = ia < 0 ? 1 : a[ia], n = ib < 0 ? 1 : b[ib];
    if (m != n && m != 1 && n != 1)
      inf.shape_error(a_name, " has shape ", a, " and ", b_name, " has shape ", b,
                      ": counted from the last, their axes must be equal, or one of them 1.");
    shape.push_back(m == 1 ? n : m);
  }
  return shape;
}

// The shape that attrs ask for.
inline Shape shape_of(const Attrs& attrs) {
  return Shape(std::span<const std::int64_t>(attrs.ints, static_cast<std::size_t>(attrs.n_ints)));
}

inline Attrs with_ints(std::span<const std::int64_t> ints) {
  Attrs attrs;
  for (std::int64_t v : ints) attrs.ints[attrs.n_ints++] = v;
  return attrs;
}

inline Attrs with_shape(const Shape& shape) {
  return with_ints({shape.data(), static_cast<std::size_t>(shape.rank())});
}

inline Attrs with_scalar(double scalar) {
  Attrs attrs;
  attrs.scalar = scalar;
  return attrs;
}

inline Value emit(Builder& b, const Op& op, std::initializer_list<Value> inputs, const Attrs& attrs = {}) {
  return b.emit(op, std::span<const Value>(inputs.begin(), inputs.size()), attrs);
}

// Sum over the last axis, which stays with size 1.
inline Value sum_last(Builder& b, Value x) {
  Attrs attrs;
  attrs.ints[0] = -1;
  attrs.n_ints = 1;
  attrs.keepdims = true;
  return emit(b, sum, {x}, attrs);
}

inline Value reshape_to(Builder& b, Value x, const Shape& shape) {
  return x.spec->shape == shape ? x : emit(b, reshape, {x}, with_shape(shape));
}

// The gradient of an operand of shape `shape` that was broadcast: summed where it was repeated.
inline Value sum_to_shape(Builder& b, Value g, const Shape& shape) {
  return g.spec->shape == shape ? g : emit(b, sum_to, {g}, with_shape(shape));
}

}  // namespace edfcore::ops
