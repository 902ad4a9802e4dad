// CUDA's words that need no simulation: qualifiers, vector types, integer atomics and the device side of
// <math.h>.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)
#define EDF_UNROLL
#define EDF_UNROLL_BY(count)

#define EDF_SIM_VECTOR2(T, name, align) \
  struct alignas(align) name {          \
    T x, y;                             \
  };                                    \
  inline name make_##name(T x, T y) { return {x, y}; }
#define EDF_SIM_VECTOR4(T, name, align) \
  struct alignas(align) name {          \
    T x, y, z, w;                       \
  };                                    \
  inline name make_##name(T x, T y, T z, T w) { return {x, y, z, w}; }

EDF_SIM_VECTOR2(float, float2, 8)
EDF_SIM_VECTOR2(double, double2, 16)
EDF_SIM_VECTOR2(int, int2, 8)
EDF_SIM_VECTOR2(unsigned, uint2, 8)
EDF_SIM_VECTOR2(long long, longlong2, 16)
EDF_SIM_VECTOR4(float, float4, 16)
EDF_SIM_VECTOR4(int, int4, 16)
EDF_SIM_VECTOR4(unsigned, uint4, 16)
EDF_SIM_VECTOR4(unsigned char, uchar4, 4)

#undef EDF_SIM_VECTOR2
#undef EDF_SIM_VECTOR4

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline constexpr int warpSize = 32;

// Threads of the simulation share one host thread, so a plain read and write is atomic.
template <class T>
T atomicAdd(T* address, T value) {
  static_assert(sizeof(T) >= 4 && T(1) / T(2) == T(0), "integers only: no kernel adds floats with atomics");
  const T old = *address;
  *address = old + value;
  return old;
}

template <class T>
T atomicCAS(T* address, T compare, T value) {
  static_assert(sizeof(T) >= 4 && T(1) / T(2) == T(0), "integers only");
  const T old = *address;
  if (old == compare) *address = value;
  return old;
}

template <class T>
T atomicExch(T* address, T value) {
  const T old = *address;
  *address = value;
  return old;
}

template <class T>
T atomicMin(T* address, T value) {
  const T old = *address;
  if (value < old) *address = value;
  return old;
}

template <class T>
T atomicMax(T* address, T value) {
  const T old = *address;
  if (old < value) *address = value;
  return old;
}

inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T>
T __ldg(const T* address) {
  return *address;
}

// CUDA's min and max take any two equal types; for floats they return the operand that is not NaN.
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
template <class T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
  return a < b ? b : a;
}

// The "fast" words round as their exact kin do, so a simulated result is at least as good as a device's.
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __fdividef(float a, float b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }
inline double rsqrt(double a) { return 1.0 / sqrt(a); }
#define __expf expf  // glibc declares functions of these names
#define __logf logf

inline int __float_as_int(float a) {
  int bits;
  memcpy(&bits, &a, sizeof bits);
  return bits;
}
inline unsigned __float_as_uint(float a) { return static_cast<unsigned>(__float_as_int(a)); }
inline float __int_as_float(int bits) {
  float a;
  memcpy(&a, &bits, sizeof a);
  return a;
}
inline float __uint_as_float(unsigned bits) { return __int_as_float(static_cast<int>(bits)); }

inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __ffs(int a) { return __builtin_ffs(a); }
inline int __ffsll(long long a) { return __builtin_ffsll(a); }
inline int __clz(int a) { return a == 0 ? 32 : __builtin_clz(static_cast<unsigned>(a)); }
