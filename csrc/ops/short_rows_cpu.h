// For *.cpu.cpp: short rows, as many at once as a vector has lanes, each in a lane of its own. What a row by
// itself would spend on joining lanes and on the elements that fill no vector is not spent at all.
#pragma once

#include <string.h>

#include "ops/rows_cpu.h"
#include "ops/simd_cpu.h"

namespace edfcore::EDF_ISA {

inline constexpr std::int64_t most_short = 128;  // elements; longer rows are as fast one by one
inline constexpr std::int64_t few_short = 47;    // so are these, where rows are written, too

// Vectors consist of parts of 16 bytes, which need not stand side by side in memory.
inline constexpr int vector_parts = vector_bytes / 16;
template <class T>
inline constexpr int part_lanes = 16 / static_cast<int>(sizeof(T));

template <class V, int... I>
V interleave_parts(V a, V b, std::integer_sequence<int, I...>, int half) {
  constexpr int n = sizeof...(I), p = n / vector_parts;
  return half == 0 ? __builtin_shufflevector(a, b, (I / p * p + I % p / 2 + I % 2 * n)...)
                   : __builtin_shufflevector(a, b, (I / p * p + I % p / 2 + I % 2 * n + p / 2)...);
}

// Of as many vectors as a part has lanes, transposes what stands in equal parts.
template <class T>
void transpose_parts(Vector<T> (&v)[part_lanes<T>]) {
  constexpr int n = part_lanes<T>;
  constexpr std::make_integer_sequence<int, lanes<T>> indices;
  for (int width = 1; width < n; width *= 2) {
    Vector<T> mixed[n];
    for (int i = 0; i < n / 2; ++i)
      for (int half = 0; half < 2; ++half)
        mixed[2 * i + half] = interleave_parts(v[i], v[i + n / 2], indices, half);
    for (int i = 0; i < n; ++i) v[i] = mixed[i];
  }
}

// A vector of the parts at from[0], from[1], ..., and back.
#if defined(__AVX512F__)
inline FloatVector load_parts(const float* const (&from)[4]) {
  const __m512 low =
      _mm512_insertf32x4(_mm512_castps128_ps512(_mm_loadu_ps(from[0])), _mm_loadu_ps(from[1]), 1);
  return _mm512_insertf32x4(_mm512_insertf32x4(low, _mm_loadu_ps(from[2]), 2), _mm_loadu_ps(from[3]), 3);
}
inline DoubleVector load_parts(const double* const (&from)[4]) {
  const __m512d low =
      _mm512_insertf64x2(_mm512_castpd128_pd512(_mm_loadu_pd(from[0])), _mm_loadu_pd(from[1]), 1);
  return _mm512_insertf64x2(_mm512_insertf64x2(low, _mm_loadu_pd(from[2]), 2), _mm_loadu_pd(from[3]), 3);
}
#elif defined(__AVX2__)
inline FloatVector load_parts(const float* const (&from)[2]) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from[0])), _mm_loadu_ps(from[1]), 1);
}
inline DoubleVector load_parts(const double* const (&from)[2]) {
  return _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(from[0])), _mm_loadu_pd(from[1]), 1);
}
#else
template <class T>
Vector<T> load_parts(const T* const (&from)[1]) {
  return load(from[0]);
}
#endif

template <int k, class T, int... I>
void store_part(T* to, Vector<T> v, std::integer_sequence<int, I...>) {
  const auto part = __builtin_shufflevector(v, v, (k * part_lanes<T> + I)...);
  memcpy(to, &part, sizeof part);
}
template <class T, int... K>
void store_parts(T* const (&to)[vector_parts], Vector<T> v, std::integer_sequence<int, K...>) {
  (store_part<K>(to[K], v, std::make_integer_sequence<int, part_lanes<T>>{}), ...);
}

template <class T, int width>
struct WideOf {
  using Type = Vector<T>;
};
template <class T>
struct WideOf<T, 1> {
  using Type = T;
};

// `width` is the number of lanes of a vector, or 1. A row's results are those of its lane, whatever stands in
// the others, and are the same in every lane and for both widths.
template <class Number, int width>
struct ShortRows {
  using T = Number;
  using Wide = typename WideOf<T, width>::Type;  // a number for each row
  static constexpr std::int64_t rows = width;
  static constexpr int part = part_lanes<T>;
  static constexpr std::int64_t padding = lanes<T> * part;

  alignas(64) T at[most_short * rows + padding];  // element c of row l at c * rows + l

  Wide get(std::int64_t c) const {
    Wide w;
    memcpy(&w, at + c * rows, sizeof w);
    return w;
  }
  void put(std::int64_t c, Wide w) { memcpy(at + c * rows, &w, sizeof w); }

  // The first `count` rows of n > 0 elements at x, of which `room` may be read; the last one is repeated.
  // What is read beyond the end of a row, to have whole parts, is never looked at.
  void load(const T* x, std::int64_t n, std::int64_t count, std::int64_t room) {
    if constexpr (width == 1) {
      for (std::int64_t c = 0; c < n; ++c) at[c] = x[c];
      for (std::int64_t c = n; c < n + lanes<T>; ++c) at[c] = 0;
    } else if (n < part) {
      put(0, Wide{});  // for compilers that do not know that n is not 0
      for (std::int64_t l = 0; l < rows; ++l)
        for (std::int64_t c = 0; c < n; ++c) at[c * rows + l] = x[(l < count ? l : count - 1) * n + c];
    } else {
      T last[most_short + part];
      const T* end = x + (count - 1) * n;
      if (room < count * n + part) {
        for (std::int64_t c = 0; c < n; ++c) last[c] = end[c];
        for (std::int64_t c = n; c < n + part; ++c) last[c] = 0;
        end = last;
      }
      for (std::int64_t c = count * n; c < 2 * count * n && c < room; c += 64 / std::int64_t{sizeof(T)})
        __builtin_prefetch(x + c);  // the next ones
      const T* from[width];
      for (std::int64_t l = 0; l < rows; ++l) from[l] = l + 1 < count ? x + l * n : end;
      std::int64_t c = 0;
      do {
        Vector<T> v[part];
        for (int i = 0; i < part; ++i) {
          const T* parts[vector_parts];
          for (int k = 0; k < vector_parts; ++k) parts[k] = from[k * part + i] + c;
          v[i] = load_parts(parts);
        }
        transpose_parts<T>(v);
        for (int i = 0; i < part; ++i) put(c + i, v[i]);
        c += part;
      } while (c < n);
    }
  }

  // Whole parts as well, from the last columns to the first: what goes beyond the end of a row stands where
  // the next one is still to be written. Rows for which that would be beyond the last one are written by
  // element.
  void store(T* y, std::int64_t n, std::int64_t count) const {
    std::int64_t whole = n % part == 0 ? count : n < part ? 0 : count - 1;
    if constexpr (width == 1) whole = 0;
    if constexpr (width > 1) {
      T nowhere[most_short + part];
      T* to[width];
      for (std::int64_t l = 0; l < rows; ++l) to[l] = l < whole ? y + l * n : nowhere;
      for (std::int64_t c = (n - 1) / part * part; whole > 0 && c >= 0; c -= part) {
        Vector<T> v[part];
        for (int i = 0; i < part; ++i) v[i] = get(c + i);
        transpose_parts<T>(v);
        for (int i = 0; i < part; ++i) {
          T* parts[vector_parts];
          for (int k = 0; k < vector_parts; ++k) parts[k] = to[k * part + i] + c;
          store_parts(parts, v[i], std::make_integer_sequence<int, vector_parts>{});
        }
      }
    }
    for (std::int64_t l = whole; l < count; ++l)
      for (std::int64_t c = 0; c < n; ++c) y[l * n + c] = at[c * rows + l];
  }

  void copy(std::int64_t n, const ShortRows& other) {
    for (std::int64_t c = 0; c < n + (width == 1 ? lanes<T> : 0); ++c) put(c, other.get(c));
  }

  // f of every element.
  template <class F>
  void map(std::int64_t n, const F& f) {
    const std::int64_t size = width == 1 ? (n + lanes<T> - 1) / lanes<T> * lanes<T> : n * rows;
    EDF_INDEPENDENT
    for (std::int64_t i = 0; i < size; ++i) at[i] = f(at[i]);
  }

  void subtract(std::int64_t n, Wide w) {
    for (std::int64_t c = 0; c < n; ++c) put(c, get(c) - w);
  }

  // A NaN is passed over: who subtracts this from its row finds it there.
  Wide max(std::int64_t n) const {
    Wide top = get(0);
    for (std::int64_t c = 1; c < n; ++c) {
      const Wide w = get(c);
      top = w > top ? w : top;
    }
    return top;
  }

  // A number for each row, one by one.
  struct Each {
    alignas(64) T at[width];

    Wide all() const {
      Wide w;
      memcpy(&w, at, sizeof w);
      return w;
    }
  };
  static Each each(Wide w) {
    Each each;
    memcpy(each.at, &w, sizeof w);
    return each;
  }
  static Each each(const double (&numbers)[width]) {
    Each each;
    for (int l = 0; l < width; ++l) each.at[l] = static_cast<T>(numbers[l]);
    return each;
  }
  static Each load_each(const T* from, std::int64_t count) {
    Each each = {};
    for (std::int64_t l = 0; l < rows && l < count; ++l) each.at[l] = from[l];
    return each;
  }

  // Adds up term(i), where i goes over elements c * rows + l, for each row l, in double.
  template <class Term>
  static void sum(std::int64_t n, double (&total)[width], const Term& term) {
    for (int l = 0; l < width; ++l) total[l] = 0;
    std::int64_t i = 0;
    for (; i + 4 * rows <= n * rows; i += 4 * rows) {
      EDF_INDEPENDENT
      for (std::int64_t l = 0; l < rows; ++l)
        total[l] += (double(term(i + l)) + double(term(i + rows + l))) +
                    (double(term(i + 2 * rows + l)) + double(term(i + 3 * rows + l)));
    }
    for (; i < n * rows; i += rows) {
      EDF_INDEPENDENT
      for (std::int64_t l = 0; l < rows; ++l) total[l] += double(term(i + l));
    }
  }

  Each sum(std::int64_t n) const {
    double total[width];
    sum(n, total, [this](std::int64_t i) { return at[i]; });
    return each(total);
  }
  Each dot(std::int64_t n, const ShortRows& other) const {
    double total[width];
    sum(n, total, [&](std::int64_t i) { return double(at[i]) * double(other.at[i]); });
    return each(total);
  }
};

// The type of other rows like these.
template <class Reference>
struct Referred;
template <class Rows>
struct Referred<Rows&> {
  using Type = Rows;
};
template <class Reference>
using SameRows = typename Referred<Reference>::Type;

// Calls few(rows, row, count, room), where `rows` is some ShortRows to be filled and `room` elements from the
// row's first one on belong to the chunk, or many(begin, end) for those of more than `most` elements; in
// parallel, and about `work` elements in a chunk.
template <class T, class Few, class Many>
void short_or_long_rows(std::int64_t rows, std::int64_t n, std::int64_t work, const Few& few,
                        const Many& many, std::int64_t most = most_short) {
  constexpr std::int64_t together = lanes<T>;
  if (n < 1 || n > most) {
    parallel_ranges(rows, work / (n < 1 ? 1 : n), many);
    return;
  }
  const std::int64_t grain = (work / n + together - 1) / together * together;
  parallel_ranges(rows, grain, [&](std::int64_t begin, std::int64_t end) {
    while (begin < end) {
      const std::int64_t rest = end - begin, count = rest < together ? rest : together;
      if (4 * count > together) {
        ShortRows<T, lanes<T>> turned;
        few(turned, begin, count, rest * n);
        begin += count;
      } else {
        ShortRows<T, 1> single;
        few(single, begin, std::int64_t{1}, n);
        ++begin;
      }
    }
  });
}

}  // namespace edfcore::EDF_ISA
