// How rows.cu measures: memory in several copies, so that each call reads what the one before it did not, a
// check and a time for every variant, and the rows that are printed.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/kernel.h"
#include "graph_timer.h"
#include "hopper_harness.h"

namespace edfcore::rows {

using hopper::blocks_of;
using hopper::DeviceArray;

constexpr std::int64_t arena_size = std::int64_t{1} << 29;  // of floats: 2 GiB
constexpr std::int64_t scratch_bytes = std::int64_t{256} << 20;

// What is measured: the name of an op, and the numbers of its shape as they are printed.
struct Subject {
  std::string op, shape;
  double bytes;  // that must move, at the least
};

inline std::string numbers(std::int64_t rows, std::int64_t columns) {
  return "\"rows\":" + std::to_string(rows) + ",\"columns\":" + std::to_string(columns);
}

inline std::string number(std::optional<double> x, const char* format = "%.2f") {
  char text[32] = "null";
  if (x && *x - *x == 0) std::snprintf(text, sizeof text, format, *x);
  return text;
}

inline std::string row;  // that is being measured: how its line begins
constexpr char not_ok[] = "\"us\":null,\"gb_per_s\":null,\"ok\":false,\"error\":";

struct Bench : hopper::GraphTimer {
  DeviceArray<float> a{arena_size}, b{arena_size}, c{arena_size};
  DeviceArray<char> scratch{scratch_bytes};
  DeviceArray<Status> status{1};
  DeviceArray<float> worst{1};
  int failures = 0;
  double seconds = 40;
  bool out_of_time = false;

  Bench() {
    cudaDeviceProp properties;
    EDF_CUDA(cudaGetDeviceProperties(&properties, 0));
    std::printf("{\"row\":\"device\",\"name\":\"%s\",\"multiprocessors\":%d}\n", properties.name,
                properties.multiProcessorCount);
    EDF_CUDA(cudaMemsetAsync(status.data, 0, sizeof(Status), stream));
    hopper::fill_normal<<<blocks_of(arena_size), 256, 0, stream>>>(a.data, arena_size, 1, false);
    hopper::fill_normal<<<blocks_of(arena_size), 256, 0, stream>>>(b.data, arena_size, 2, false);
    EDF_CUDA(cudaGetLastError());
    EDF_CUDA(cudaStreamSynchronize(stream));
  }

  std::int32_t* labels() const { return reinterpret_cast<std::int32_t*>(scratch.data); }

  bool in_time() {
    out_of_time = out_of_time || hopper::seconds_since_start() > seconds;
    return !out_of_time;
  }

  // The median of microseconds of call(k), where k goes round `sets` copies of the memory. Short calls are
  // timed several to a sample, in a graph, so that the host's part does not count.
  double time(int sets, const std::function<void(int)>& call) {
    const float first = elapsed([&] { call(sets - 1); });
    const int calls = first > 0.4f ? 1 : std::max(sets, first > 0.05f ? 4 : 16);
    return median_us(calls, sets, 2, first > 3 ? 5 : 15, call);
  }

  // Calls `once`, lets `check` judge it, times call(k), and prints the row. No time where it is wrong.
  std::optional<double> measure(const Subject& s, const std::string& variant, int sets,
                                const std::function<void()>& once, const std::function<void()>& check,
                                const std::function<void(int)>& call) {
    row = "{\"row\":\"time\",\"op\":\"" + s.op + "\"," + s.shape + ",\"variant\":\"" + variant + "\",";
    EDF_CUDA(cudaMemsetAsync(worst.data, 0, sizeof(float), stream));
    once();
    if (const cudaError_t e = cudaGetLastError(); e != cudaSuccess) {  // a launch that was refused
      ++failures;
      std::printf("%s%snull,\"cuda\":\"%s\"}\n", row.c_str(), not_ok, cudaGetErrorString(e));
      return std::nullopt;
    }
    check();
    EDF_CUDA(cudaGetLastError());
    float error;
    EDF_CUDA(cudaMemcpyAsync(&error, worst.data, sizeof error, cudaMemcpyDeviceToHost, stream));
    EDF_CUDA(cudaStreamSynchronize(stream));
    if (!(error <= 1)) {
      ++failures;
      std::printf("%s%s%s}\n", row.c_str(), not_ok, number(error, "%.3g").c_str());
      return std::nullopt;
    }
    const double us = time(sets, call);
    const auto rate = s.bytes > 0 ? std::optional(s.bytes / us * 1e-3) : std::nullopt;
    std::printf("%s\"us\":%.2f,\"gb_per_s\":%s,\"ok\":true,\"error\":%.3g}\n", row.c_str(), us,
                number(rate, "%.0f").c_str(), error);
    row.clear();
    return us;
  }

  // A copy of so many floats, to compare with.
  std::optional<double> copy(const std::string& shape, std::int64_t count) {
    const std::int64_t step = (count + 63) / 64 * 64;
    const int sets = sets_of(count);
    const auto call = [&](int k) {
      EDF_CUDA(cudaMemcpyAsync(c.data + k * step, a.data + k * step, static_cast<std::size_t>(count) * 4,
                               cudaMemcpyDeviceToDevice, stream));
    };
    return measure(
        {"copy", shape, 8.0 * static_cast<double>(count)}, "memcpy", sets, [&] { call(0); }, [] {}, call);
  }

  // How many copies of so many floats take turns: more than the cache holds, where there is room.
  static int sets_of(std::int64_t count) {
    const std::int64_t step = (count + 63) / 64 * 64;
    return static_cast<int>(std::min<std::int64_t>({arena_size / step, 40, (100 << 20) / (count * 4) + 2}));
  }

  // So that what is not written is found.
  void poison(float* out, std::int64_t count) {
    EDF_CUDA(cudaMemsetAsync(out, 0xff, static_cast<std::size_t>(count) * 4, stream));
  }
};

// The engine's time at a shape, and what was faster.
struct Best {
  std::string name = "engine";
  std::optional<double> engine, us;

  explicit Best(std::optional<double> engine_us) : engine(engine_us), us(engine_us) {}

  void add(const std::string& variant, std::optional<double> variant_us) {
    if (!variant_us || (us && *us <= *variant_us)) return;
    us = variant_us;
    name = variant;
  }

  std::string text(const Subject& s, const std::string& choice, std::optional<double> copy) const {
    return "{\"op\":\"" + s.op + "\"," + s.shape + ",\"engine\":\"" + choice +
           "\",\"engine_us\":" + number(engine) + ",\"best\":\"" + name + "\",\"best_us\":" + number(us) +
           ",\"memcpy_us\":" + number(copy) + "}";
  }
};

// A kernel's arguments; stays where it is, since views point into it.
struct Arguments {
  View in[3] = {}, out[1] = {};
  std::int64_t dims[4][2] = {};
  Attrs attrs;
  Launch launch{};

  explicit Arguments(const Bench& bench) {
    launch.in = in;
    launch.out = out;
    launch.n_in = 3;
    launch.n_out = 1;
    launch.attrs = &attrs;
    launch.scratch = bench.scratch.data;
    launch.status = bench.status.data;
    launch.stream = bench.stream;
  }
  Arguments(const Arguments&) = delete;
  Arguments& operator=(const Arguments&) = delete;

  // Argument k, where 3 is the output; of rank 1 without columns.
  Arguments& set(int k, const void* data, std::int64_t rows, std::int64_t cols, DType dtype) {
    dims[k][0] = rows;
    dims[k][1] = cols;
    View& view = k == 3 ? out[0] : in[k];
    view = {const_cast<void*>(data), dims[k], cols > 0 ? 2 : 1, dtype,
            rows * std::max<std::int64_t>(cols, 1)};
    return *this;
  }
};

}  // namespace edfcore::rows
