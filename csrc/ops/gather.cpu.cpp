// CPU kernels of gather and scatter. A bad index is reported, read as a zero and written nowhere.
#include <string.h>

#include "ops/index_cpu.h"
#include "ops/strided_cpu.h"

namespace edfcore::EDF_ISA {

namespace {

constexpr std::int64_t work = 16384;  // elements in a chunk, about

std::int64_t grain_for(std::int64_t row_size) { return work / (row_size < 1 ? 1 : row_size); }

constexpr std::int64_t ahead =
    8;  // rows that are fetched before they are asked for: hardware cannot foresee them

// The beginning of a row; what follows it hardware then finds.
template <class T>
void fetch(const T* row, std::int64_t width) {
  constexpr std::int64_t line = 64 / std::int64_t{sizeof(T)};
  for (std::int64_t j = 0; j < width && j < 8 * line; j += line) __builtin_prefetch(row + j);
}

template <class T>
void gather_rows(const Launch& launch) {
  const View &table = launch.in[0], &index = launch.in[1];
  const T* from = pointer<const T>(table);
  T* to = pointer<T>(launch.out[0]);
  const std::int64_t rows = table.dims[0], width = index.size > 0 ? launch.out[0].size / index.size : 0;
  if (width == 0) return;
  const bool past = streams(launch, sizeof(T));
  parallel_ranges(index.size, grain_for(width), [=, &index](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      if (i + ahead < end) {
        const std::int64_t next = index_at(index, i + ahead);
        if (in_range(next, rows)) fetch(from + next * width, width);
      }
      const std::int64_t row = index_at(index, i);
      const size_t bytes = static_cast<size_t>(width) * sizeof(T);
      if (!in_range(row, rows))
        memset(to + i * width, 0, bytes);
      else if (past)
        stream(to + i * width, from + row * width, width * std::int64_t{sizeof(T)});
      else
        memcpy(to + i * width, from + row * width, bytes);
    }
    if (past) stream_end();
  });
}

// Chunks are ranges of rows of the output, so that each sum is taken in the order of the index, whatever
// their number. Every one of them looks at the whole index and leaves out rows of g, so there are no more
// than threads, and fewer where rows are short.
template <class T>
void scatter_add_rows(const Launch& launch) {
  const View &g = launch.in[0], &index = launch.in[1], &out = launch.out[0];
  const std::int64_t rows = out.dims[0], width = rows > 0 ? out.size / rows : 0;
  const T* from = pointer<const T>(g);
  T* to = pointer<T>(out);
  const std::int64_t by_width = 1 + width / 32, by_size = 1 + g.size / (32 * work);
  const std::int64_t most = by_width < by_size ? by_width : by_size, threads = num_threads();
  const std::int64_t parts = most < threads ? most : threads;
  parallel_ranges(rows, (rows + parts - 1) / parts, [=, &index](std::int64_t begin, std::int64_t end) {
    memset(to + begin * width, 0, static_cast<size_t>((end - begin) * width) * sizeof(T));
    for (std::int64_t i = 0; i < index.size; ++i) {
      if (i + ahead < index.size) {
        const std::int64_t next = index_at(index, i + ahead);
        if (begin <= next && next < end) {
          fetch(to + next * width, width);
          if (parts > 1) fetch(from + (i + ahead) * width, width);
        }
      }
      const std::int64_t row = index_at(index, i);
      if (row < begin || row >= end) continue;
      T* sum = to + row * width;
      const T* term = from + i * width;
      EDF_INDEPENDENT
      for (std::int64_t j = 0; j < width; ++j) sum[j] += term[j];
    }
  });
}

// Entries of an index in each row of x (..., C): one where the index has no last axis of its own.
std::int64_t entries(const View& index, const View& x) {
  return index.rank == x.rank ? index.dims[index.rank - 1] : 1;
}

template <class T>
void take_along_last(const Launch& launch) {
  const View &x = launch.in[0], &index = launch.in[1];
  const std::int64_t classes = x.dims[x.rank - 1], n = entries(index, x);
  const T* from = pointer<const T>(x);
  T* to = pointer<T>(launch.out[0]);
  const std::int64_t rows = n > 0 ? index.size / n : 0;
  parallel_ranges(rows, grain_for(n), [=, &index](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row)
      for (std::int64_t i = row * n; i < (row + 1) * n; ++i) {
        const std::int64_t c = index_at(index, i);
        to[i] = in_range(c, classes) ? from[row * classes + c] : T(0);
      }
  });
}

template <class T>
void put_along_last(const Launch& launch) {
  const View &g = launch.in[0], &index = launch.in[1], &out = launch.out[0];
  const std::int64_t classes = out.dims[out.rank - 1], n = entries(index, out);
  const T* from = pointer<const T>(g);
  T* to = pointer<T>(out);
  const std::int64_t rows = classes > 0 ? out.size / classes : 0;
  parallel_ranges(rows, grain_for(classes), [=, &index](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin * classes; i < end * classes; ++i) to[i] = T(0);
    for (std::int64_t row = begin; row < end; ++row)
      for (std::int64_t i = row * n; i < (row + 1) * n; ++i) {
        const std::int64_t c = index_at(index, i);
        if (in_range(c, classes)) to[row * classes + c] += from[i];
      }
  });
}

}  // namespace

void gather_rows_kernel(const Launch& launch) {
  check_indices(launch, 1, launch.in[0].dims[0]);
  visit_bits(launch.out[0].dtype, [&](auto bits) { gather_rows<decltype(bits)>(launch); });
}

void scatter_add_rows_kernel(const Launch& launch) {
  check_indices(launch, 1, launch.out[0].dims[0]);
  visit_floating(launch.out[0].dtype, [&](auto zero) { scatter_add_rows<decltype(zero)>(launch); });
}

void take_along_last_kernel(const Launch& launch) {
  check_indices(launch, 1, launch.in[0].dims[launch.in[0].rank - 1]);
  visit_bits(launch.out[0].dtype, [&](auto bits) { take_along_last<decltype(bits)>(launch); });
}

void put_along_last_kernel(const Launch& launch) {
  check_indices(launch, 1, launch.out[0].dims[launch.out[0].rank - 1]);
  visit_floating(launch.out[0].dtype, [&](auto zero) { put_along_last<decltype(zero)>(launch); });
}

}  // namespace edfcore::EDF_ISA
