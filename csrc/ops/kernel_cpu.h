// For *.cpu.cpp only: these files are compiled once per instruction set, each into its own namespace EDF_ISA.
// Nothing here or there may be an inline function outside that namespace (std:: algorithms included): the
// linker would keep one copy for all instruction sets, perhaps the one that this machine cannot run. <math.h>
// functions are fine.
#pragma once

#include <stdint.h>

#include "core/kernel.h"
#include "core/parallel.h"

#ifndef EDF_ISA
#error "*.cpu.cpp files are compiled once per instruction set by the build, with -DEDF_ISA=..."
#endif

// A formula that stays a call keeps the loop around it from being vectorised.
#if defined(_MSC_VER) && !defined(__clang__)
#define EDF_HD __forceinline
#else
#define EDF_HD __attribute__((always_inline))
#endif

#include "ops/math_cpu.h"  // after EDF_HD

// Before an elementwise loop: no iteration reads what another one writes. The output may still be an input's
// own memory (Op::inplace), which __restrict would forbid and without which the compiler falls back to
// scalars.
#if defined(__clang__)
#define EDF_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define EDF_INDEPENDENT _Pragma("GCC ivdep")
#endif

namespace edfcore::EDF_ISA {

// Calls body(begin, end) for consecutive ranges of at most `grain` that cover [0, n), perhaps in parallel.
// The split depends on n and grain alone.
template <class Body>
void parallel_ranges(std::int64_t n, std::int64_t grain, const Body& body) {
  struct Context {
    const Body* body;
    std::int64_t n, grain;
  } context{&body, n, grain < 1 ? 1 : grain};
  // Most ranges are short, and a division takes longer than what is done to them.
  const std::int64_t chunks = n <= context.grain ? n > 0 : (n + context.grain - 1) / context.grain;
  parallel_chunks(
      chunks,
      [](void* p, std::int64_t chunk) {
        const Context& c = *static_cast<const Context*>(p);
        const std::int64_t begin = chunk * c.grain;
        const std::int64_t end = begin + c.grain < c.n ? begin + c.grain : c.n;
        (*c.body)(begin, end);
      },
      &context);
}

// Calls body(T{}) with the C++ type of a floating dtype; infer has let no other dtype through.
template <class Body>
void visit_floating(DType dtype, const Body& body) {
  if (dtype == DType::f64)
    body(double{});
  else
    body(float{});
}

// The same for float32, float64, int32, int64 and uint8.
template <class Body>
void visit_numeric(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::f64:
      return body(double{});
    case DType::i32:
      return body(std::int32_t{});
    case DType::i64:
      return body(std::int64_t{});
    case DType::u8:
      return body(std::uint8_t{});
    default:
      return body(float{});
  }
}

template <class T>
T* pointer(const View& view) {
  return static_cast<T*>(view.data);
}

}  // namespace edfcore::EDF_ISA
