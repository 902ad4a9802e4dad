// CPU kernel of casts. Halves are converted from and to float; what is neither goes by way of floats, a part
// at a time.
#include "ops/kernel_cpu.h"

#include "core/half.h"  // after EDF_HD

namespace edfcore::EDF_ISA {

namespace {

// A bool is a byte of 0 or 1 that visit_numeric would take for a uint8; its own type tells them apart.
struct Bool {
  std::uint8_t byte;
};

// A float on its way to a half, rounded so that this does not show.
struct Odd {
  float value;
};

template <class To, class From>
struct Convert {
  static To f(From x) { return static_cast<To>(x); }
};
// By way of int32, or a value out of range would depend on whether the compiler used vectors.
template <>
struct Convert<std::uint8_t, float> {
  static std::uint8_t f(float x) { return static_cast<std::uint8_t>(static_cast<std::int32_t>(x)); }
};
template <>
struct Convert<std::uint8_t, double> {
  static std::uint8_t f(double x) { return static_cast<std::uint8_t>(static_cast<std::int32_t>(x)); }
};
template <class From>
struct Convert<Bool, From> {
  static Bool f(From x) { return {static_cast<std::uint8_t>(x != From(0))}; }
};
template <class To>
struct Convert<To, Bool> {
  static To f(Bool x) { return static_cast<To>(x.byte); }
};
template <>
struct Convert<Bool, Bool> {
  static Bool f(Bool x) { return x; }
};
template <class From>
struct Convert<Odd, From> {
  static Odd f(From x) { return {rounded_to_odd(static_cast<double>(x))}; }
};
template <>
struct Convert<Odd, std::int64_t> {
  static Odd f(std::int64_t x) { return {rounded_to_odd(without_low_bits(x))}; }
};
template <>
struct Convert<Odd, Bool> {
  static Odd f(Bool x) { return {static_cast<float>(x.byte)}; }
};

// Elements [at, at + count) of `from` to `to`, which begins at its element `to_at`.
using Run = void (*)(const void* from, std::int64_t at, void* to, std::int64_t to_at, std::int64_t count);

template <class To, class From>
void run(const void* from, std::int64_t at, void* to, std::int64_t to_at, std::int64_t count) {
  const From* x = static_cast<const From*>(from) + at;
  To* y = static_cast<To*>(to) + to_at;
  EDF_INDEPENDENT
  for (std::int64_t i = 0; i < count; ++i) y[i] = Convert<To, From>::f(x[i]);
}

template <class Body>
void visit_castable(DType dtype, const Body& body) {
  if (dtype == DType::b1)
    body(Bool{});
  else
    visit_numeric(dtype, body);
}

// The conversion of what is no half to To.
template <class To>
Run run_to(DType from) {
  Run chosen = nullptr;
  visit_castable(from, [&](auto x) { chosen = run<To, decltype(x)>; });
  return chosen;
}

struct Way {
  Run first, second;  // by way of floats, or null

  void go(const void* from, void* to, std::int64_t begin, std::int64_t end) const {
    if (!second) return first(from, begin, to, begin, end - begin);
    constexpr std::int64_t part = 1024;
    float floats[part];
    for (; begin < end; begin += part) {
      const std::int64_t count = end - begin < part ? end - begin : part;
      first(from, begin, floats, 0, count);
      second(floats, 0, to, begin, count);
    }
  }
};

Way way(DType from, DType to) {
  if (is_half(from) && from == to) return {run<std::uint16_t, std::uint16_t>, nullptr};
  const Run widen = from == DType::bf16 ? run<float, BFloat16> : run<float, Float16>;
  const Run narrow = to == DType::bf16 ? run<BFloat16, float> : run<Float16, float>;
  if (is_half(from) && is_half(to)) return {widen, narrow};
  if (is_half(to)) return from == DType::f32 ? Way{narrow, nullptr} : Way{run_to<Odd>(from), narrow};
  Way way{nullptr, nullptr};
  visit_castable(to, [&](auto y) { way.first = run_to<decltype(y)>(is_half(from) ? DType::f32 : from); });
  if (is_half(from)) way = to == DType::f32 ? Way{widen, nullptr} : Way{widen, way.first};
  return way;
}

}  // namespace

void cast_kernel(const Launch& launch) {
  const Way chosen = way(launch.in[0].dtype, launch.out[0].dtype);
  const void* from = launch.in[0].data;
  void* to = launch.out[0].data;
  parallel_ranges(launch.out[0].size, 16384,
                  [=](std::int64_t begin, std::int64_t end) { chosen.go(from, to, begin, end); });
}

void autocast_kernel(const Launch& launch) { cast_kernel(launch); }

}  // namespace edfcore::EDF_ISA
