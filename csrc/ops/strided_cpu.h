// For *.cpu.cpp: nested loops over operands with strides. Axes of size one are dropped and neighbours merged,
// so that equal shapes, a scalar operand or a row vector all become long rows without special cases.
#pragma once

#include <string.h>

#include "ops/stream_cpu.h"

namespace edfcore::EDF_ISA {

inline constexpr int max_loops = 8;

// Axes from outer to inner, at least one; the walk goes over the product of dims in row-major order.
template <int Operands>
struct Loops {
  int rank = 0;
  std::int64_t dims[max_loops] = {};
  std::int64_t strides[max_loops][Operands] = {};

  void push(std::int64_t dim, const std::int64_t (&stride)[Operands]) {
    if (dim == 1) return;
    bool merges = rank > 0;
    for (int n = 0; merges && n < Operands; ++n) merges = strides[rank - 1][n] == dim * stride[n];
    if (merges)
      dims[rank - 1] *= dim;
    else
      dims[rank++] = dim;
    for (int n = 0; n < Operands; ++n) strides[rank - 1][n] = stride[n];
  }

  // A single element is a row of one.
  void close() {
    if (rank > 0) return;
    rank = 1;
    dims[0] = 1;
    for (int n = 0; n < Operands; ++n) strides[0][n] = 1;
  }

  std::int64_t size() const {
    std::int64_t product = 1;
    for (int i = 0; i < rank; ++i) product *= dims[i];
    return product;
  }
  std::int64_t inner() const { return dims[rank - 1]; }
  std::int64_t inner_stride(int operand) const { return strides[rank - 1][operand]; }

  // Where operand n stands at position `index` of the walk over the first `axes` axes.
  std::int64_t offset(int n, std::int64_t index, int axes) const {
    std::int64_t sum = 0;
    for (int i = axes - 1; i > 0; --i) {
      const std::int64_t outer = index / dims[i];
      sum += (index - outer * dims[i]) * strides[i][n];
      index = outer;
    }
    return axes > 0 ? sum + index * strides[0][n] : 0;
  }
  std::int64_t offset(int n, std::int64_t index) const { return offset(n, index, rank); }

  // body(first, count, offsets) for the pieces of rows that make up positions [begin, end). Where the first
  // one is takes divisions; the next ones are counted from there.
  template <class Body>
  void rows(std::int64_t begin, std::int64_t end, const Body& body) const {
    if (begin >= end) return;
    std::int64_t at[max_loops], offsets[Operands] = {}, row = begin / inner(), column = begin - row * inner();
    for (int i = rank - 2; i >= 0; --i) {
      const std::int64_t outer = i > 0 ? row / dims[i] : 0;
      at[i] = row - outer * dims[i];
      for (int n = 0; n < Operands; ++n) offsets[n] += at[i] * strides[i][n];
      row = outer;
    }
    for (int n = 0; n < Operands; ++n) offsets[n] += column * inner_stride(n);
    while (true) {
      const std::int64_t rest = inner() - column, count = rest < end - begin ? rest : end - begin;
      body(begin, count, offsets);
      begin += count;
      if (begin >= end) return;
      for (int n = 0; n < Operands; ++n) offsets[n] -= column * inner_stride(n);
      column = 0;
      for (int i = rank - 2; i >= 0; --i) {
        for (int n = 0; n < Operands; ++n) offsets[n] += strides[i][n];
        if (++at[i] < dims[i]) break;
        for (int n = 0; n < Operands; ++n) offsets[n] -= dims[i] * strides[i][n];
        at[i] = 0;
      }
    }
  }
};

// Operands broadcast against `out`, aligned at the last axis.
template <int Operands>
Loops<Operands> broadcast_loops(const View& out, const View* in) {
  std::int64_t strides[max_loops][Operands] = {};
  for (int n = 0; n < Operands; ++n) {
    std::int64_t step = 1;
    for (int i = in[n].rank - 1; i >= 0; --i) {
      strides[i + out.rank - in[n].rank][n] = in[n].dims[i] == 1 ? 0 : step;
      step *= in[n].dims[i];
    }
  }
  Loops<Operands> loops;
  for (int i = 0; i < out.rank; ++i) loops.push(out.dims[i], strides[i]);
  loops.close();
  return loops;
}

// Calls body(T{}) with an integer as wide as the dtype: for kernels that move values and never look at them.
template <class Body>
void visit_bits(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::f64:
    case DType::i64:
      return body(std::uint64_t{});
    case DType::f32:
    case DType::i32:
      return body(std::uint32_t{});
    case DType::bf16:
    case DType::f16:
      return body(std::uint16_t{});
    default:
      return body(std::uint8_t{});
  }
}

// As memcpy, whose call would take longer than to copy a short run.
template <class T>
void copy_run(T* to, const T* from, std::int64_t count) {
  if (count * std::int64_t{sizeof(T)} > 256) {
    memcpy(to, from, static_cast<size_t>(count) * sizeof(T));
    return;
  }
  constexpr std::int64_t part = 16 / std::int64_t{sizeof(T)};
  for (; count >= part; count -= part, to += part, from += part) __builtin_memcpy(to, from, 16);
  if (count >= part / 2) {
    __builtin_memcpy(to, from, 8);
    count -= part / 2;
    to += part / 2;
    from += part / 2;
  }
  for (; count > 0; --count) *to++ = *from++;
}

// Fills the output in its own order from a strided input.
template <class T>
void copy_strided(const Launch& launch, const Loops<1>& loops, const T* x) {
  elementwise_ranges<T>(launch, 16384, [&](std::int64_t begin, std::int64_t end, T* y) {
    loops.rows(begin, end, [&](std::int64_t first, std::int64_t count, const std::int64_t* offset) {
      const T* from = x + offset[0];
      T* __restrict to = y + (first - begin);
      const std::int64_t step = loops.inner_stride(0);
      if (step == 1)
        copy_run(to, from, count);
      else if (step == 0)
        for (std::int64_t i = 0; i < count; ++i) to[i] = *from;
      else
        for (std::int64_t i = 0; i < count; ++i) to[i] = from[i * step];
    });
  });
}

}  // namespace edfcore::EDF_ISA
