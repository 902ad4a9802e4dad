// What the words of device/mma.h do on the simulated device: lanes exchange their fragments at a meeting, and
// sums are cut as tensor cores cut them, so that what hides their error on a device is needed here, too.
#include "device/sim/matrix.h"

#include <string.h>

#include <cmath>
#include <limits>
#include <vector>

#include "device/sim/memory.h"

namespace edfcore {
namespace sim {
namespace {

constexpr unsigned all_lanes = 0xffffffffu;
constexpr int max_threads = 1024;

// What a lane brings to a meeting. There are two places for it, which take turns: a lane that has gone on
// cannot come to the next meeting but one before all others have read what it brought to this one.
struct Brought {
  uint32_t words[6];
  const void* row;
};
Brought brought[2][max_threads];
uint8_t turn[max_threads];

struct Copy {
  void* to;
  const void* from;
  size_t bytes, valid;
};
struct Queue {
  std::vector<Copy> copies;
  std::vector<size_t> groups;  // where they end
};
Queue queues[max_threads];

unsigned thread_of_block() { return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x; }

// What the lanes of this warp have brought, lane 0 first; null where some are missing.
const Brought* meet(const Brought& own, Site site) {
  const unsigned thread = thread_of_block();
  Brought* all = brought[turn[thread] ^= 1];
  all[thread] = own;
  const uint64_t there = warp_meeting(Meeting::ballot, all_lanes, 1, 0, site);
  return there == all_lanes ? all + thread / 32 * 32 : nullptr;
}

double of_half(uint32_t bits) {
  const int exponent = static_cast<int>(bits >> 10 & 31u), fraction = static_cast<int>(bits & 1023u);
  double value = 0;
  if (exponent == 31)
    value = fraction == 0 ? std::numeric_limits<double>::infinity() : std::nan("");
  else
    value = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return (bits >> 15 & 1u) != 0 ? -value : value;
}

double element(Format format, uint32_t word, int half) {
  if (format == Format::tf32) return static_cast<double>(__uint_as_float(word & ~0x1fffu));
  const uint32_t bits = word >> (16 * half) & 0xffffu;
  return format == Format::bf16 ? static_cast<double>(__uint_as_float(bits << 16)) : of_half(bits);
}

int exponent_of(double x) {
  uint64_t bits = 0;
  memcpy(&bits, &x, sizeof bits);
  return static_cast<int>(bits >> 52 & 2047u) - 1023;
}

double power_of_two(int exponent) {
  const uint64_t bits = static_cast<uint64_t>(exponent + 1023) << 52;
  double x = 0;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// Terms are cut to the last place but one of a float as large as the largest, and so is the sum to a float,
// towards zero: as on the chips that keep fewest bits (Fasi et al., Numerical behavior of NVIDIA tensor
// cores, 2021).
float cut_sum(const double* terms, int n) {
  int largest = -1023;
  bool finite = true;
  for (int i = 0; i < n; ++i) {
    finite = finite && std::isfinite(terms[i]);
    if (exponent_of(terms[i]) > largest) largest = exponent_of(terms[i]);
  }
  if (!finite) {
    double sum = 0;
    for (int i = 0; i < n; ++i) sum += terms[i];
    return static_cast<float>(sum);
  }
  const int last = largest - 24 > -149 ? largest - 24 : -149;
  const double scale = power_of_two(-last);
  int64_t sum = 0;
  for (int i = 0; i < n; ++i) sum += static_cast<int64_t>(terms[i] * scale);
  int64_t unit = 1;
  while (sum / unit >= 1 << 24 || sum / unit <= -(1 << 24)) unit *= 2;
  return static_cast<float>(static_cast<double>(sum / unit * unit) * power_of_two(last));
}

}  // namespace

// Fragments as the PTX ISA lays them out. Lane 4 r + w holds, of row r and r + 8 of A and of column r of B,
// words w and w + 4, each of one element along k or of two.
void multiply(Format format, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site site) {
  const Brought* all = meet({{a[0], a[1], a[2], a[3], b0, b1}, nullptr}, site);
  const int own = static_cast<int>(thread_of_block() % 32), per_word = format == Format::tf32 ? 1 : 2;
  for (int i = 0; i < 4; ++i) {
    const int row = own / 4 + i / 2 * 8, column = own % 4 * 2 + i % 2;
    double terms[17];
    terms[16] = static_cast<double>(d[i]);
    for (int k = 0; all != nullptr && k < 8 * per_word; ++k) {
      const int word = k / per_word, from = word % 4, second = word / 4;
      const uint32_t of_a = all[row % 8 * 4 + from].words[row / 8 + 2 * second];
      const uint32_t of_b = all[column * 4 + from].words[4 + second];
      terms[16 - 8 * per_word + k] =
          element(format, of_a, k % per_word) * element(format, of_b, k % per_word);
    }
    const int n = 8 * per_word + 1;
    d[i] = all != nullptr ? cut_sum(terms + 17 - n, n) : std::nanf("");
  }
}

void load_matrices(uint32_t (&r)[4], const void* row, bool transposed, Site site) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
    set_fault(cudaErrorIllegalAddress, "rows of matrices that are loaded must lie at multiples of 16 bytes");
  const Brought* all = meet({{}, row}, site);
  const int own = static_cast<int>(thread_of_block() % 32);
  for (int q = 0; q < 4; ++q) {
    r[q] = 0x7fffffffu;
    if (all == nullptr) continue;
    if (!transposed) {
      memcpy(&r[q], static_cast<const char*>(all[8 * q + own / 4].row) + own % 4 * 4, 4);
      continue;
    }
    uint16_t pair[2];
    for (int i = 0; i < 2; ++i)
      memcpy(&pair[i], static_cast<const char*>(all[8 * q + own % 4 * 2 + i].row) + own / 4 * 2, 2);
    r[q] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
  }
}

void copy_later(void* shared, const void* global, size_t bytes, size_t valid) {
  if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) % bytes != 0)
    set_fault(cudaErrorIllegalAddress, "asynchronous copies must lie at multiples of their size");
  queues[thread_of_block()].copies.push_back({shared, global, bytes, valid});
}

void close_group() {
  Queue& queue = queues[thread_of_block()];
  queue.groups.push_back(queue.copies.size());
}

// A copy is made when it is waited for, and no earlier.
void copy_now(int but_newest) {
  Queue& queue = queues[thread_of_block()];
  const auto kept = static_cast<size_t>(but_newest);
  if (queue.groups.size() <= kept) return;
  const size_t closed = queue.groups.size() - kept, end = queue.groups[closed - 1];
  for (size_t i = 0; i < end; ++i) {
    const Copy& copy = queue.copies[i];
    if (copy.valid > 0) memcpy(copy.to, copy.from, copy.valid);
    memset(static_cast<char*>(copy.to) + copy.valid, 0, copy.bytes - copy.valid);
  }
  queue.copies.erase(queue.copies.begin(), queue.copies.begin() + static_cast<ptrdiff_t>(end));
  queue.groups.erase(queue.groups.begin(), queue.groups.begin() + static_cast<ptrdiff_t>(closed));
  for (size_t& group : queue.groups) group -= end;
}

}  // namespace sim

uint32_t to_tf32(float x) {
  const uint32_t bits = __float_as_uint(x), magnitude = bits & 0x7fffffffu;
  if (magnitude >= 0x7f800000u) return magnitude == 0x7f800000u ? bits : 0x7fffffffu;
  return (bits + 0x1000u) & ~0x1fffu;
}

}  // namespace edfcore
