// For rows.cu: scatter_add_rows and its stages, and sums and maxima of columns.
#pragma once

#include <list>

#include "ops/gather.cu"  // the engine's
#include "ops/reduce.cu"
#include "rows_bench.h"
#include "rows_check.h"

namespace edfcore::rows {

// An index of `entries` among `rows`, on the device, and what a stable sort makes of it.
struct Index {
  DeviceArray<std::int32_t> row, start, position;

  static std::vector<std::int32_t> drawn(std::int64_t entries, std::int64_t rows, bool one_row) {
    std::vector<std::int32_t> index(static_cast<std::size_t>(entries));
    std::uint64_t x = 88172645463325252u;
    for (auto& each : index) {
      x ^= x << 13, x ^= x >> 7, x ^= x << 17;
      each = static_cast<std::int32_t>(
          one_row ? rows / 2 : static_cast<std::int64_t>(x % static_cast<std::uint64_t>(rows)));
    }
    return index;
  }

  static void upload(const DeviceArray<std::int32_t>& to, const std::vector<std::int32_t>& from) {
    EDF_CUDA(cudaMemcpy(to.data, from.data(), from.size() * 4, cudaMemcpyHostToDevice));
  }

  Index(std::size_t entries, std::size_t rows, bool one_row)
      : row(entries), start(rows + 1), position(entries) {
    const auto index = drawn(static_cast<std::int64_t>(entries), static_cast<std::int64_t>(rows), one_row);
    std::vector<std::int32_t> first(rows + 1), order(entries);
    for (const std::int32_t r : index) ++first[static_cast<std::size_t>(r) + 1];
    for (std::size_t r = 0; r < rows; ++r) first[r + 1] += first[r];
    auto next = first;
    for (std::size_t i = 0; i < entries; ++i)
      order[static_cast<std::size_t>(next[static_cast<std::size_t>(index[i])]++)] =
          static_cast<std::int32_t>(i);
    upload(row, index);
    upload(start, first);
    upload(position, order);
  }
};

using SumRuns = void (*)(const Launch&, const cuda::Entries&);
template <int V, int P, int Ahead>
void sum_runs(const Launch& l, const cuda::Entries& sorted) {
  cuda::launch_sum_runs<float, V, P, Ahead>(
      l, cuda::pointer<const float>(l.in[0]), sorted, cuda::pointer<float>(l.out[0]),
      static_cast<std::int32_t>(l.in[1].size), l.in[0].dims[1], l.out[0].dims[0]);
}
inline void sum_heavy(const Launch& l, const cuda::Entries& sorted) {
  const std::int64_t count = l.in[1].size, width = l.in[0].dims[1], bands = (width + 31) / 32;
  edfcore::launch(cuda::sum_heavy<float>,
                  cuda::blocks_for((count + cuda::heavy - 1) / cuda::heavy * bands, 1), cuda::block_threads,
                  0, l.stream, cuda::pointer<const float>(l.in[0]), sorted, cuda::pointer<float>(l.out[0]),
                  static_cast<std::int32_t>(count), width, l.out[0].dims[0], bands);
}

struct RunsVariant {
  const char* name;
  SumRuns run;
};
#define RUNS(V, P, AHEAD) {"V " #V " P " #P " ahead " #AHEAD, sum_runs<V, P, AHEAD>}
constexpr RunsVariant runs_variants[] = {RUNS(4, 1, 4), RUNS(4, 4, 2), RUNS(4, 1, 1),
                                         RUNS(4, 2, 2), RUNS(4, 4, 1), RUNS(2, 2, 4)};
#undef RUNS
constexpr int engine_runs(std::int64_t width) { return width <= 128 ? 0 : 1; }  // for these shapes

// Its part of the summary: the whole op, then the sums of light rows.
inline std::string scatter_case(Bench& bench, std::int64_t n, std::int64_t width, std::int64_t rows,
                                bool one_row) {
  const Index index(static_cast<std::size_t>(n), static_cast<std::size_t>(rows), one_row);
  const std::int64_t step = (std::max(n, rows) * width + 63) / 64 * 64;
  const int sets = Bench::sets_of(step);
  std::list<Arguments> all;
  std::vector<Launch> launches;
  for (int k = 0; k < sets; ++k) {
    Arguments& a = all.emplace_back(bench);
    a.set(0, bench.a.data + k * step, n, width, DType::f32).set(1, index.row.data, n, 0, DType::i32);
    a.set(3, bench.c.data + k * step, rows, width, DType::f32);
    launches.push_back(a.launch);
  }
  const std::string shape = numbers(n, width) + ",\"to\":" + std::to_string(rows);
  const double bytes = 4.0 * static_cast<double>((n + rows) * width);
  const std::string op = one_row ? "scatter_one_row" : "scatter";
  const auto check = [&] {
    check_scatter<<<blocks_of(rows * width), check_threads, 0, bench.stream>>>(
        bench.a.data, index.start.data, index.position.data, bench.c.data, rows, width, bench.worst.data);
  };
  const auto copy = bench.copy(shape, n * width);

  const Subject whole{op, shape, bytes};
  const auto scatter = [&](const char* variant) {
    bench.poison(bench.c.data, rows * width);
    return bench.measure(
        whole, variant, sets, [&] { cuda::scatter_add_rows_kernel(launches[0]); }, check,
        [&](int k) { cuda::scatter_add_rows_kernel(launches[static_cast<std::size_t>(k)]); });
  };
  Best best(scatter("engine"));
  if (n * rows <= 10000000 && bench.in_time()) {
    for (Launch& l : launches) l.scratch = nullptr;
    best.add("walk", scatter("walk"));
    for (Launch& l : launches) l.scratch = bench.scratch.data;
  }
  std::string summary = best.text(whole, cuda::scatter_sorts(n, rows) ? "sort" : "walk", copy);

  cuda::Entries sorted{};
  bench.measure(
      {op + ".sort", shape, 0}, "engine", 1,
      [&] { sorted = cuda::sort_entries<std::int32_t>(launches[0], rows); },
      [&] {  // an error of so many entries
        const auto words = [](const std::int32_t* x) { return reinterpret_cast<const float*>(x); };
        const auto wrong =
            static_cast<float>(hopper::different(words(sorted.position), words(index.position.data), 0, n));
        EDF_CUDA(cudaMemcpyAsync(bench.worst.data, &wrong, 4, cudaMemcpyHostToDevice, bench.stream));
      },
      [&](int) { cuda::sort_entries<std::int32_t>(launches[0], rows); });
  const auto stage = [&](const char* name, const char* variant, SumRuns light, SumRuns timed) {
    bench.poison(bench.c.data, rows * width);
    return bench.measure(
        {op + name, shape, timed == sum_heavy ? 0 : bytes}, variant, sets,
        [&] {
          light(launches[0], sorted);
          sum_heavy(launches[0], sorted);
        },
        check, [&](int k) { timed(launches[static_cast<std::size_t>(k)], sorted); });
  };
  const RunsVariant& chosen = runs_variants[engine_runs(width)];
  stage(".sum_heavy", "engine", chosen.run, sum_heavy);
  if (one_row) return summary;  // which is heavy
  Best best_runs(stage(".sum_runs", "engine", chosen.run, chosen.run));
  for (const RunsVariant& v : runs_variants)
    if (&v != &chosen && bench.in_time()) best_runs.add(v.name, stage(".sum_runs", v.name, v.run, v.run));
  return summary + "," + best_runs.text({op + ".sum_runs", shape, bytes}, chosen.name, copy);
}

// Sums of columns as the engine takes them, but with other widths of a block's band and numbers of chunks.
inline void sum_columns(const Launch& l, int width, std::int64_t chunks) {
  using namespace cuda;
  const std::int64_t rows = l.in[0].dims[0], cols = l.in[0].dims[1], tiles = (cols + width - 1) / width;
  const bool reduced[max_rank] = {true};
  Reduction r = reduction(l.in[0], reduced);
  r.chunks = chunks;
  r.per_chunk = (rows + chunks - 1) / chunks;
  auto* partial = static_cast<double*>(l.scratch);
  launch(reduce_columns<SumFold, Result::partial, float, double, double>, blocks_for(tiles * chunks, 1),
         block_threads, 0, l.stream, r, pointer<const float>(l.in[0]), partial, 0.0, width, tiles);
  Reduction second{};
  second.kept.push_outer(cols, chunks);
  second.reduced.push_outer(chunks, 1);
  second.groups = cols;
  second.length = second.per_chunk = chunks;
  second.chunks = 1;
  second.terms = r.terms;
  reduce_stage<SumFold, Result::output>(l, second, static_cast<const double*>(partial),
                                        pointer<float>(l.out[0]), 0.0);
}

// Over axis 0.
inline std::string columns_case(Bench& bench, std::int64_t rows, std::int64_t cols, bool max) {
  const std::int64_t n = rows * cols, step = (n + 63) / 64 * 64;
  const int sets = Bench::sets_of(n);
  const bool in_stages = cuda::reduce_scratch(n, cols) > 0;
  std::list<Arguments> all;
  std::vector<Launch> launches;
  for (int k = 0; k < sets; ++k) {
    Arguments& a = all.emplace_back(bench);
    a.set(0, bench.a.data + k * step, rows, cols, DType::f32);
    a.set(3, bench.c.data + k * cols, cols, 0, DType::f32);
    a.attrs.n_ints = 1;  // axis 0
    if (!in_stages) a.launch.scratch = nullptr;
    launches.push_back(a.launch);
  }
  const Subject s{max ? "max" : "sum", numbers(rows, cols), 4.0 * static_cast<double>(n)};
  const auto copy = bench.copy(s.shape, n);
  const auto measure = [&](const std::string& variant, const std::function<void(const Launch&)>& run) {
    bench.poison(bench.c.data, cols);
    return bench.measure(
        s, variant, sets, [&] { run(launches[0]); },
        [&] {
          check_columns<<<static_cast<unsigned>(cols), check_threads, 0, bench.stream>>>(
              bench.a.data, bench.c.data, rows, cols, max, bench.worst.data);
        },
        [&](int k) { run(launches[static_cast<std::size_t>(k)]); });
  };
  const auto name = [](int width, std::int64_t chunks) {
    return "width " + std::to_string(width) + " chunks " + std::to_string(chunks);
  };
  Best best(measure("engine", max ? cuda::max_kernel : cuda::sum_kernel));
  const std::int64_t own_chunks = in_stages ? cuda::reduce_chunks(cols, rows) : 1;
  int own_width = 1;
  while (own_width < 32 && own_width < cols) own_width *= 2;
  for (Launch& l : launches) l.scratch = bench.scratch.data;
  for (const int width : {16, 32, 64, 128}) {
    for (const int more : {1, 2, 4}) {
      const std::int64_t chunks = own_chunks * more;
      const bool engine = width == own_width && more == 1;
      if (max || engine || chunks < 2 || chunks > rows || width / 2 >= cols || !bench.in_time()) continue;
      best.add(name(width, chunks),
               measure(name(width, chunks), [&](const Launch& l) { sum_columns(l, width, chunks); }));
    }
  }
  return best.text(s, name(own_width, own_chunks), copy);
}

}  // namespace edfcore::rows
