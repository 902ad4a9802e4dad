// For gather.cu: scatter_add of many entries. A stable radix sort brings together the entries of each row,
// which then are summed in the order of the index.
#pragma once

#include "ops/kernel_cuda.h"

namespace edfcore::cuda {

// Where the sort keeps its entries: a row (or `rows`, for a bad one) and its position in the index.
struct Entries {
  std::int32_t *row, *position;
};

inline constexpr int digit_bits = 8, digits = 1 << digit_bits;
static_assert(digits == block_threads, "each thread counts one digit");

__device__ inline int digit_of(std::int32_t row, int shift) { return row >> shift & (digits - 1); }

// How the index is dealt out to blocks. Pass 0 reads it, later ones the entries of the pass before.
template <class Index>
struct Sorting {
  const Index* index;
  std::int32_t count, rows, per_tile, tiles;
  int shift;

  __device__ std::int32_t row(const Entries& from, std::int32_t i) const {
    if (shift > 0) return from.row[i];
    const std::int64_t row = static_cast<std::int64_t>(index[i]);
    return 0 <= row && row < rows ? static_cast<std::int32_t>(row) : rows;
  }
};

// offsets[d * tiles + t] = entries of tile t with digit d.
template <class Index>
__global__ void __launch_bounds__(block_threads)
    count_digits(Sorting<Index> s, Entries from, std::int32_t* offsets, Reporter reporter) {
  EDF_SHARED(std::int32_t, found, digits);
  const int thread = static_cast<int>(threadIdx.x), tile = static_cast<int>(blockIdx.x);
  found[thread] = 0;
  __syncthreads();
  const std::int64_t start = std::int64_t{tile} * s.per_tile;
  for (std::int32_t k = thread; k < s.per_tile && start + k < s.count; k += block_threads) {
    const auto i = static_cast<std::int32_t>(start + k);
    const std::int32_t row = s.row(from, i);
    if (s.shift == 0 && row == s.rows) reporter.report(i, static_cast<std::int64_t>(s.index[i]), s.rows);
    atomicAdd(&found[digit_of(row, s.shift)], 1);
  }
  __syncthreads();
  offsets[thread * s.tiles + tile] = found[thread];
}

inline constexpr int scan_threads = 1024;

// One block turns counts into the number of entries before: exclusive sums.
template <int Own>
__global__ void __launch_bounds__(scan_threads) sum_before(std::int32_t* offsets, std::int32_t size) {
  EDF_SHARED(std::int32_t, warps, scan_threads / 32);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  std::int32_t before = 0;
  for (std::int32_t start = 0; start < size; start += Own * scan_threads) {
    std::int32_t values[Own], sum = 0;
    EDF_UNROLL
    for (int k = 0; k < Own; ++k) {
      const std::int32_t i = start + thread * Own + k;
      values[k] = i < size ? offsets[i] : 0;
    }
    EDF_UNROLL
    for (int k = 0; k < Own; ++k) sum += values[k];
    std::int32_t upto = sum;
    for (int offset = 1; offset < 32; offset *= 2) {
      const std::int32_t other = __shfl_up_sync(0xffffffffu, upto, offset);
      if (lane >= offset) upto += other;
    }
    if (lane == 31) warps[thread / 32] = upto;
    __syncthreads();
    std::int32_t run = before + upto - sum;
    for (int w = 0; w < scan_threads / 32; ++w) {
      if (w < thread / 32) run += warps[w];
      before += warps[w];
    }
    EDF_UNROLL
    for (int k = 0; k < Own; ++k) {
      const std::int32_t i = start + thread * Own + k;
      if (i < size) offsets[i] = run;
      run += values[k];
    }
    __syncthreads();
  }
}

// Entries go to their digit's place, in the order they came.
template <class Index>
__global__ void __launch_bounds__(block_threads)
    place_entries(Sorting<Index> s, Entries from, Entries to, const std::int32_t* offsets) {
  constexpr int warps = block_threads / 32;
  using Digits = std::int32_t[digits];
  EDF_SHARED(std::int32_t, next, digits);  // place of the next entry with a digit
  EDF_SHARED(Digits, found, warps);        // by warp, in this stretch
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int tile = static_cast<int>(blockIdx.x);
  next[thread] = offsets[thread * s.tiles + tile];
  const std::int64_t start = std::int64_t{tile} * s.per_tile;
  for (std::int32_t k = 0; k < s.per_tile && start + k < s.count; k += block_threads) {
    for (int w = 0; w < warps; ++w) found[w][thread] = 0;
    __syncthreads();
    const bool live = k + thread < s.per_tile && start + k + thread < s.count;
    const auto i = static_cast<std::int32_t>(start + k + thread);
    const std::int32_t row = live ? s.row(from, i) : 0;
    const int digit = digit_of(row, s.shift);
    unsigned same = __ballot_sync(0xffffffffu, live);  // lanes with this lane's digit
    for (int bit = 0; bit < digit_bits; ++bit) {
      const unsigned votes = __ballot_sync(0xffffffffu, digit >> bit & 1);
      same &= digit >> bit & 1 ? votes : ~votes;
    }
    const int earlier = __popc(same & ((1u << lane) - 1u));
    if (live && earlier == 0) found[warp][digit] = __popc(same);
    __syncthreads();
    if (live) {
      std::int32_t place = next[digit] + earlier;
      for (int w = 0; w < warp; ++w) place += found[w][digit];
      to.row[place] = row;
      to.position[place] = s.shift > 0 ? from.position[i] : i;
    }
    __syncthreads();
    for (int w = 0; w < warps; ++w) next[thread] += found[w][thread];
  }
}

// The first entry whose row is not below `row`; for a whole warp.
__device__ inline std::int32_t first_of(const std::int32_t* rows, std::int32_t count, std::int32_t row,
                                        int lane) {
  std::int32_t low = 0, high = count;  // it is in [low, high]
  while (low < high) {
    const std::int32_t part = (high - low + 31) / 32;
    const std::int64_t at = low + std::int64_t{part} * (lane + 1) - 1;
    const bool below = at < high && rows[at] < row;
    const int n = __popc(__ballot_sync(0xffffffffu, below));  // so many parts end below
    low += n * part;
    if (n < 32 && low + part - 1 < high) high = low + part - 1;
  }
  return low;
}

inline constexpr std::int32_t heavy = 128;  // entries of a row from which on a block sums it

// A warp sums a row's entries over a band of 32 P packs.
template <class T, int V, int P, int Ahead>
__global__ void __launch_bounds__(block_threads, roomy)
    sum_runs(const T* g, Entries entries, T* out, std::int32_t count, std::int64_t width, std::int64_t rows,
             std::int64_t bands) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const Division at = divide(thread_number() / 32, bands);
  if (at.quotient >= rows) return;
  const auto row = static_cast<std::int32_t>(at.quotient);
  const std::int64_t first = (at.remainder * P * 32 + lane) * V;
  const std::int32_t start = first_of(entries.row, count, row, lane);
  if (start + heavy - 1 < count && entries.row[start + heavy - 1] == row) return;  // see sum_heavy
  Pack<T, V> sum[P] = {};
  for (std::int32_t next = start;; next += 32) {
    const std::int32_t e = next + lane;
    const bool mine = e < count && entries.row[e] == row;
    const std::int32_t position = mine ? entries.position[e] : 0;
    const int n = __popc(__ballot_sync(0xffffffffu, mine));
    for (int k = 0; k < n; k += Ahead) {
      Pack<T, V> term[Ahead][P] = {};
      EDF_UNROLL
      for (int a = 0; a < Ahead; ++a) {
        const std::int64_t from = __shfl_sync(0xffffffffu, position, k + a < 32 ? k + a : 31);
        EDF_UNROLL
        for (int p = 0; p < P; ++p) {
          const std::int64_t col = first + p * 32 * V;
          if (k + a < n && col < width) term[a][p] = load_pack<T, V>(g + from * width + col);
        }
      }
      EDF_UNROLL
      for (int a = 0; a < Ahead; ++a) {
        EDF_UNROLL
        for (int p = 0; p < P; ++p) {
          EDF_UNROLL
          for (int v = 0; v < V; ++v) sum[p].v[v] += term[a][p].v[v];
        }
      }
    }
    if (n < 32) break;
  }
  EDF_UNROLL
  for (int p = 0; p < P; ++p) {
    const std::int64_t col = first + p * 32 * V;
    if (col < width) store_pack(out + row * width + col, sum[p]);
  }
}

// A block sums a heavy row over 32 columns: all its warps fetch terms, the first adds them in order.
// Candidate c stands for the row of entry c * heavy, if none before it does.
template <class T>
__global__ void __launch_bounds__(block_threads, roomy)
    sum_heavy(const T* g, Entries entries, T* out, std::int32_t count, std::int64_t width, std::int64_t rows,
              std::int64_t bands) {
  constexpr int own = 128 / static_cast<int>(sizeof(T)), stretch = own * (block_threads / 32);
  using Line = T[32];
  EDF_SHARED(Line, terms, stretch);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const Division at = divide(static_cast<std::int64_t>(blockIdx.x), bands);
  const auto candidate = static_cast<std::int32_t>(at.quotient * heavy);
  const std::int32_t row = entries.row[candidate];
  if (row >= rows || (candidate > 0 && entries.row[candidate - heavy] == row)) return;
  const std::int32_t start = first_of(entries.row, count, row, lane);
  if (start + heavy - 1 >= count || entries.row[start + heavy - 1] != row) return;
  const std::int32_t end = first_of(entries.row, count, row + 1, lane);
  const std::int64_t col = at.remainder * 32 + lane;
  T sum = 0, fetched[own] = {};
  const auto fetch = [&](std::int32_t from) {
    EDF_UNROLL
    for (int k = 0; k < own; ++k) {
      const std::int32_t e = from + warp * own + k;
      if (e < end && col < width) fetched[k] = g[entries.position[e] * width + col];
    }
  };
  fetch(start);
  for (std::int32_t from = start; from < end; from += stretch) {
    __syncthreads();
    EDF_UNROLL
    for (int k = 0; k < own; ++k) terms[warp * own + k][lane] = fetched[k];
    __syncthreads();
    if (end - from > stretch) fetch(from + stretch);
    if (warp > 0) continue;
    const int n = end - from < stretch ? end - from : stretch;
    int k = 0;
    for (; k + 8 <= n; k += 8) {
      T next[8];
      EDF_UNROLL
      for (int i = 0; i < 8; ++i) next[i] = terms[k + i][lane];
      EDF_UNROLL
      for (int i = 0; i < 8; ++i) sum += next[i];
    }
    for (; k < n; ++k) sum += terms[k][lane];
  }
  if (warp == 0 && col < width) out[row * width + col] = sum;
}

template <class T, int V, int P, int Ahead>
void launch_sum_runs(const Launch& l, const T* g, const Entries& entries, T* out, std::int32_t count,
                     std::int64_t width, std::int64_t rows) {
  const std::int64_t bands = (width + 32 * P * V - 1) / (32 * P * V);
  launch(sum_runs<T, V, P, Ahead>, blocks_for(rows * bands, block_threads / 32), block_threads, 0, l.stream,
         g, entries, out, count, width, rows, bands);
}

// Sorts by row and returns the sorted entries; all in scratch.
template <class Index>
Entries sort_entries(const Launch& l, std::int64_t rows) {
  const View& index = l.in[1];
  Sorting<Index> s{};
  s.index = pointer<const Index>(index);
  s.count = static_cast<std::int32_t>(index.size);
  s.rows = static_cast<std::int32_t>(rows);
  s.tiles = static_cast<std::int32_t>(sort_tiles(index.size));
  s.per_tile = (s.count + s.tiles - 1) / s.tiles;
  auto* offsets = static_cast<std::int32_t*>(l.scratch);
  std::int32_t* places = offsets + std::int64_t{digits} * s.tiles;
  Entries from{places, places + s.count},
      to{from.position + s.count, from.position + 2 * std::int64_t{s.count}};
  for (; s.shift < 32 && rows >> s.shift > 0; s.shift += digit_bits) {
    launch(count_digits<Index>, dim3(s.tiles), block_threads, 0, l.stream, s, from, offsets, reporter(l, 1));
    launch(sum_before<16>, dim3(1), scan_threads, 0, l.stream, offsets, digits * s.tiles);
    launch(place_entries<Index>, dim3(s.tiles), block_threads, 0, l.stream, s, from, to, offsets);
    const Entries sorted = to;
    to = from;
    from = sorted;
  }
  return from;
}

// `width` is not 0.
template <class T, class Index>
void scatter_sorted(const Launch& l, std::int64_t rows, std::int64_t width) {
  constexpr int V = 16 / sizeof(T);
  const Entries entries = sort_entries<Index>(l, rows);
  const T* g = pointer<const T>(l.in[0]);
  T* out = pointer<T>(l.out[0]);
  const auto count = static_cast<std::int32_t>(l.in[1].size);
  if (width % V == 0 && aligned(g, 16) && aligned(out, 16)) {
    if (width <= 32 * V)
      launch_sum_runs<T, V, 1, 4>(l, g, entries, out, count, width, rows);
    else
      launch_sum_runs<T, V, 4, 2>(l, g, entries, out, count, width, rows);
  } else {
    launch_sum_runs<T, 1, 4, 4>(l, g, entries, out, count, width, rows);
  }
  const std::int64_t bands = (width + 31) / 32;
  launch(sum_heavy<T>, blocks_for((count + heavy - 1) / heavy * bands, 1), block_threads, 0, l.stream, g,
         entries, out, count, width, rows, bands);
}

}  // namespace edfcore::cuda
