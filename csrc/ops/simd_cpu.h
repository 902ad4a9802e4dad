// For *.cpu.cpp: the vector type of the instruction set and its fused multiply-add, by the compiler's own
// vectors.
#pragma once

#if defined(__AVX512F__) || defined(__FMA__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include <string.h>

#include <utility>

#include "ops/kernel_cpu.h"

// Before a loop over registers: an array that is indexed by anything but constants lives in memory.
#if defined(__clang__)
#define EDF_UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define EDF_UNROLL _Pragma("GCC unroll 32")
#else
#define EDF_UNROLL
#endif

namespace edfcore::EDF_ISA {

#if defined(__AVX512F__)
inline constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
inline constexpr int vector_bytes = 32;
#else
inline constexpr int vector_bytes = 16;
#endif

typedef float FloatVector __attribute__((vector_size(vector_bytes)));
typedef double DoubleVector __attribute__((vector_size(vector_bytes)));

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  using Type = FloatVector;
};
template <>
struct VectorOf<double> {
  using Type = DoubleVector;
};
template <class T>
using Vector = typename VectorOf<T>::Type;
template <class T>
inline constexpr bool has_vectors = T(1) / T(2) != T(0);  // there are none of integers
template <class T>
inline constexpr int lanes = vector_bytes / static_cast<int>(sizeof(T));

// a * b + c: fused, hence rounded once, where the instruction set has it.
#if defined(__AVX512F__)
inline FloatVector multiply_add(FloatVector a, FloatVector b, FloatVector c) {
  return _mm512_fmadd_ps(a, b, c);
}
inline DoubleVector multiply_add(DoubleVector a, DoubleVector b, DoubleVector c) {
  return _mm512_fmadd_pd(a, b, c);
}
#elif defined(__FMA__)
inline FloatVector multiply_add(FloatVector a, FloatVector b, FloatVector c) {
  return _mm256_fmadd_ps(a, b, c);
}
inline DoubleVector multiply_add(DoubleVector a, DoubleVector b, DoubleVector c) {
  return _mm256_fmadd_pd(a, b, c);
}
#elif defined(__aarch64__)
inline FloatVector multiply_add(FloatVector a, FloatVector b, FloatVector c) { return vfmaq_f32(c, a, b); }
inline DoubleVector multiply_add(DoubleVector a, DoubleVector b, DoubleVector c) {
  return vfmaq_f64(c, a, b);
}
#elif defined(EDF_EXACT)
__attribute__((noinline)) inline FloatVector multiply_add(FloatVector a, FloatVector b, FloatVector c) {
  for (int l = 0; l < lanes<float>; ++l) c[l] = multiply_add(a[l], b[l], c[l]);
  return c;
}
__attribute__((noinline)) inline DoubleVector multiply_add(DoubleVector a, DoubleVector b, DoubleVector c) {
  for (int l = 0; l < lanes<double>; ++l) c[l] = multiply_add(a[l], b[l], c[l]);
  return c;
}
#else
inline FloatVector multiply_add(FloatVector a, FloatVector b, FloatVector c) { return a * b + c; }
inline DoubleVector multiply_add(DoubleVector a, DoubleVector b, DoubleVector c) { return a * b + c; }
#endif

// Subtracting zero, unlike adding it, changes no value, so this compiles to a broadcast.
template <class T>
Vector<T> broadcast(T value) {
  return value - Vector<T>{};
}

template <class T>
Vector<T> load(const T* from) {
  Vector<T> v;
  memcpy(&v, from, sizeof v);
  return v;
}
template <class T>
void store(T* to, Vector<T> v) {
  memcpy(to, &v, sizeof v);
}

inline Vector<double> load_as_double(const double* from) { return load(from); }
#if defined(__AVX512F__)
inline Vector<double> load_as_double(const float* from) {
  return _mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(from));  // without a mask, GCC 12 warns of itself
}
#elif defined(__AVX2__)
inline Vector<double> load_as_double(const float* from) { return _mm256_cvtps_pd(_mm_loadu_ps(from)); }
#else
inline Vector<double> load_as_double(const float* from) {
  typedef float Half __attribute__((vector_size(vector_bytes / 2)));
  Half half;
  memcpy(&half, from, sizeof half);
  return __builtin_convertvector(half, DoubleVector);
}
#endif

// The first n lanes of a vector; n <= 0 touches no memory, and more than there are means all.
#if defined(__AVX512F__)
inline unsigned first_lanes(std::int64_t n) { return n <= 0 ? 0u : n >= 32 ? ~0u : (1u << n) - 1u; }
inline FloatVector load_first(const float* from, std::int64_t n) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>(first_lanes(n)), from);
}
inline DoubleVector load_first(const double* from, std::int64_t n) {
  return _mm512_maskz_loadu_pd(static_cast<__mmask8>(first_lanes(n)), from);
}
inline void store_first(float* to, FloatVector v, std::int64_t n) {
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>(first_lanes(n)), v);
}
inline void store_first(double* to, DoubleVector v, std::int64_t n) {
  _mm512_mask_storeu_pd(to, static_cast<__mmask8>(first_lanes(n)), v);
}
#else
template <class T>
Vector<T> load_first(const T* from, std::int64_t n) {
  if (n >= lanes<T>) return load(from);
  Vector<T> v = {};
  if (n > 0) memcpy(&v, from, static_cast<size_t>(n) * sizeof(T));
  return v;
}
template <class T>
void store_first(T* to, Vector<T> v, std::int64_t n) {
  if (n >= lanes<T>) return store(to, v);
  if (n > 0) memcpy(to, &v, static_cast<size_t>(n) * sizeof(T));
}
#endif

// All lanes joined by f, upper halves with lower ones.
template <class V, class F, int... I>
auto join_lanes(V v, const F& f, std::integer_sequence<int, I...>) {
  constexpr int half = sizeof...(I);
  if constexpr (half == 1)
    return f(v[0], v[1]);
  else
    return join_lanes(f(__builtin_shufflevector(v, v, I...), __builtin_shufflevector(v, v, (half + I)...)), f,
                      std::make_integer_sequence<int, half / 2>{});
}
template <class T, class F>
T join_lanes(Vector<T> v, const F& f) {
  return join_lanes(v, f, std::make_integer_sequence<int, lanes<T> / 2>{});
}

template <class V, int... I>
V interleave(V a, V b, std::integer_sequence<int, I...>, int half) {
  constexpr int n = sizeof...(I);
  return half == 0 ? __builtin_shufflevector(a, b, (I / 2 + I % 2 * n)...)
                   : __builtin_shufflevector(a, b, (I / 2 + I % 2 * n + n / 2)...);
}

// Transposes as many vectors as a vector has lanes: log2(lanes) perfect shuffles of the rows.
template <class T>
void transpose_square(Vector<T> (&rows)[lanes<T>]) {
  constexpr int n = lanes<T>;
  constexpr std::make_integer_sequence<int, n> indices;
  for (int width = 1; width < n; width *= 2) {
    Vector<T> mixed[n];
    for (int i = 0; i < n / 2; ++i)
      for (int half = 0; half < 2; ++half)
        mixed[2 * i + half] = interleave(rows[i], rows[i + n / 2], indices, half);
    for (int i = 0; i < n; ++i) rows[i] = mixed[i];
  }
}

}  // namespace edfcore::EDF_ISA
