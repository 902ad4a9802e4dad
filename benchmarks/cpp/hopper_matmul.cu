// Proves the Hopper matmul of hopper_kernel.h on a device, and times it. One JSON object per line.
//
//   nvcc -O3 -std=c++20 -gencode=arch=compute_90a,code=sm_90a -o hopper_matmul hopper_matmul.cu
//   hopper_matmul --probe           which descriptor offsets are right, by trying
//   hopper_matmul [--quick] [--seconds S] [--from I] [--skip NAME]... [--only NAME]
//
// Items are numbered; "# begin I NAME" precedes each. An error in a kernel ends the process with status 3:
// hopper_matmul.sh then goes on with the next item, without the instance that failed.
#include <unistd.h>

#include <array>
#include <cstring>
#include <functional>
#include <string>

#include "hopper_harness.h"
#include "hopper_kernel.h"

namespace {

using namespace edfcore::hopper;
using Bf16 = __nv_bfloat16;

constexpr const char* layout_names[4] = {"NN", "NT", "TN", "TT"};
Hang* hang;  // host memory that the device can write
int multiprocessors;
bool quick;

void print_hang() {
  if (hang == nullptr || hang->seen == 0) return;
  std::printf(
      "{\"row\": \"hang\", \"role\": \"%s\", \"stage\": %u, \"parity\": %u, \"block\": %u, \"k_block\": "
      "%u}\n",
      hang->producer != 0 ? "producer" : "consumer", hang->stage, hang->parity, hang->block, hang->k_block);
}

void prepare_device() {
  cudaDeviceProp properties;
  EDF_CUDA(cudaGetDeviceProperties(&properties, 0));
  multiprocessors = properties.multiProcessorCount;
  std::printf("{\"row\": \"device\", \"name\": \"%s\", \"capability\": \"%d.%d\", \"multiprocessors\": %d}\n",
              properties.name, properties.major, properties.minor, multiprocessors);
  EDF_CUDA(cudaHostAlloc(&hang, sizeof(Hang), cudaHostAllocMapped));
  std::memset(static_cast<void*>(hang), 0, sizeof(Hang));
  Hang* seen_from_device;
  EDF_CUDA(cudaHostGetDevicePointer(&seen_from_device, hang, 0));
  EDF_CUDA(cudaMemcpyToSymbol(hang_report, &seen_from_device, sizeof seen_from_device));
  on_device_error = print_hang;
}

// ---- instances of the kernel ----

// A launch of the kernel on operands that are already split.
using Launch = std::function<void()>;

template <class C>
Launch make_launch(const Bf16* a, const Bf16* b, float* c, int m, int n, int k) {
  static const bool allowed = [] {
    EDF_CUDA(
        cudaFuncSetAttribute(matmul_wgmma<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::shared_bytes));
    return true;
  }();
  (void)allowed;
  const CUtensorMap map_a = C::TransA ? tensor_map(a, m, k, C::Parts, 64, C::K, C::LayoutA::map_swizzle)
                                      : tensor_map(a, k, m, C::Parts, C::K, C::M, C::LayoutA::map_swizzle);
  const CUtensorMap map_b = C::TransB ? tensor_map(b, k, n, C::Parts, C::K, C::N, C::LayoutB::map_swizzle)
                                      : tensor_map(b, n, k, C::Parts, 64, C::K, C::LayoutB::map_swizzle);
  const Problem p{m, n, (m + C::M - 1) / C::M, (n + C::N - 1) / C::N, (k + C::K - 1) / C::K, c};
  const unsigned grid = static_cast<unsigned>(std::min(p.tiles_m * p.tiles_n, multiprocessors));
  return [=] { matmul_wgmma<C><<<grid, C::threads, C::shared_bytes>>>(map_a, map_b, p); };
}

struct Instance {
  std::string name;
  int layout, products, promote;
  Launch (*make)(const Bf16*, const Bf16*, float*, int, int, int);
  bool trans_a() const { return layout >= 2; }
  bool trans_b() const { return layout % 2 == 1; }
  int parts() const { return parts_of(products); }
  // Against float64. A sum that runs on in the tensor cores' accumulator has that one's error, which is to be
  // learnt here; one that is promoted after every k-block has float32's.
  double limit() const {
    if (products == 1) return 1e-5;
    return products == 6 && promote == 1 ? 1e-6 : 1.5e-5;
  }
};
std::vector<Instance> instances;

template <int Products, int N, int K, int Stages, int Promote, int Layout = 0>
void add_instances() {
  using C = Config<(Layout >= 2), (Layout % 2 == 1), Products, N, K, Stages, Promote>;
  instances.push_back({"p" + std::to_string(Products) + "_128x" + std::to_string(N) + "x" +
                           std::to_string(K) + "_s" + std::to_string(Stages) +
                           (Promote != 0 ? "_promote" + std::to_string(Promote) : "") + "_" +
                           layout_names[Layout],
                       Layout, Products, Promote, make_launch<C>});
  if constexpr (Layout < 3) add_instances<Products, N, K, Stages, Promote, Layout + 1>();
}

void list_instances() {
  add_instances<1, 256, 64, 4, 0>();
  add_instances<1, 128, 64, 6, 0>();
  add_instances<3, 256, 64, 2, 0>();
  add_instances<3, 256, 32, 4, 0>();
  add_instances<3, 192, 32, 5, 2>();
  add_instances<6, 256, 32, 3, 0>();
  add_instances<6, 192, 32, 3, 1>();
  add_instances<6, 192, 32, 3, 4>();
  add_instances<6, 128, 64, 2, 1>();
}

void split(const float* x, Bf16* planes, std::int64_t count, int parts) {
  const unsigned blocks = blocks_of(count / 4);
  if (parts == 1) split_parts<1><<<blocks, 256>>>(x, planes, count);
  if (parts == 2) split_parts<2><<<blocks, 256>>>(x, planes, count);
  if (parts == 3) split_parts<3><<<blocks, 256>>>(x, planes, count);
  EDF_CUDA(cudaGetLastError());
}

// Operands of a product, as float32 and split, and room for the result with a margin that must stay
// untouched.
struct Operands {
  static constexpr int margin = 4096;
  int m, n, k, parts;
  DeviceArray<float> a, b, c;
  DeviceArray<Bf16> planes_a, planes_b;

  Operands(int m_, int n_, int k_, int parts_, bool rounded)
      : m(m_),
        n(n_),
        k(k_),
        parts(parts_),
        a(size_a()),
        b(size_b()),
        c(size_c() + margin),
        planes_a(size_a() * parts),
        planes_b(size_b() * parts) {
    static std::uint32_t seed =
        static_cast<std::uint32_t>(std::chrono::system_clock::now().time_since_epoch().count());
    fill_normal<<<blocks_of(size_a()), 256>>>(a.data, size_a(), ++seed, rounded);
    fill_normal<<<blocks_of(size_b()), 256>>>(b.data, size_b(), ++seed, rounded);
    split_both();
  }
  std::int64_t size_a() const { return static_cast<std::int64_t>(m) * k; }
  std::int64_t size_b() const { return static_cast<std::int64_t>(k) * n; }
  std::int64_t size_c() const { return static_cast<std::int64_t>(m) * n; }
  void split_both() const {
    split(a.data, planes_a.data, size_a(), parts);
    split(b.data, planes_b.data, size_b(), parts);
  }
  // All ones: not-a-numbers, that show where nothing was written.
  void poison() const { EDF_CUDA(cudaMemset(c.data, 0xff, (size_c() + margin) * 4)); }
  Launch launch(const Instance& i) const { return i.make(planes_a.data, planes_b.data, c.data, m, n, k); }
};

template <class T>
void naive(const Operands& o, const Instance& i, T* out) {
  const dim3 grid(blocks_of(o.n, 128), static_cast<unsigned>(o.m));
  naive_matmul<<<grid, 128>>>(o.a.data, o.b.data, out, o.m, o.n, o.k, i.trans_a(), i.trans_b());
  EDF_CUDA(cudaGetLastError());
}

// ---- checks ----

// Error against float64, every element written and nothing else, and the same bits in every run.
void check_instance(const Instance& i, int m, int n, int k, const char* row, double limit) {
  const Operands o(m, n, k, i.parts(), i.products == 1);
  DeviceArray<double> exact(o.size_c());
  DeviceArray<float> other(o.size_c());
  naive(o, i, exact.data);
  naive(o, i, other.data);
  const double simt = relative_error(other.data, exact.data, o.size_c());
  const Launch run = o.launch(i);
  unsigned moved = 0, spilt = 0;
  double error = 0;
  for (int repeat = 0; repeat < 4; ++repeat) {
    o.poison();
    run();
    EDF_CUDA(cudaGetLastError());
    EDF_CUDA(cudaDeviceSynchronize());
    if (repeat == 0) {
      error = relative_error(o.c.data, exact.data, o.size_c());
      EDF_CUDA(cudaMemcpy(other.data, o.c.data, o.size_c() * 4, cudaMemcpyDeviceToDevice));
    } else {
      moved += different(o.c.data, other.data, 0, o.size_c());
    }
    spilt += different(o.c.data + o.size_c(), nullptr, 0xffffffff, Operands::margin);
  }
  const bool pass = error <= limit && moved == 0 && spilt == 0;  // false for a not-a-number
  std::printf(
      "{\"row\": \"%s\", \"name\": \"%s\", \"m\": %d, \"n\": %d, \"k\": %d, \"error\": \"%.3g\", \"limit\": "
      "%.3g, "
      "\"simt_float32_error\": %.3g, \"ratio\": \"%.3g\", \"moved\": %u, \"outside\": %u, \"status\": "
      "\"%s\"}\n",
      row, i.name.c_str(), m, n, k, error, limit, simt, error / simt, moved, spilt, pass ? "PASS" : "FAIL");
}

// ---- times ----

void time_instance(const Instance& i, int m, int n, int k) {
  const Operands o(m, n, k, i.parts(), false);
  const Launch run = o.launch(i);
  const Times t = time_runs(run, quick ? 5 : 21);
  EDF_CUDA(cudaGetLastError());
  std::printf(
      "{\"row\": \"time\", \"name\": \"%s\", \"m\": %d, \"n\": %d, \"k\": %d, \"us\": %.2f, \"least_us\": "
      "%.2f, "
      "\"tflops\": %.1f}\n",
      i.name.c_str(), m, n, k, t.median, t.least, 2.0 * m * n * k / t.median * 1e-6);
}

void time_split(int n, int parts) {
  const Operands o(n, n, 8, parts, false);
  DeviceArray<Bf16> planes(o.size_c() * parts);
  fill_normal<<<blocks_of(o.size_c()), 256>>>(o.c.data, o.size_c(), 7, false);
  const Times t = time_runs([&] { split(o.c.data, planes.data, o.size_c(), parts); }, 21);
  const double bytes = static_cast<double>(o.size_c()) * (4 + 2 * parts);
  std::printf(
      "{\"row\": \"split\", \"parts\": %d, \"rows\": %d, \"columns\": %d, \"us\": %.2f, \"gb_per_s\": "
      "%.0f}\n",
      parts, n, n, t.median, bytes / t.median * 1e-3);
}

// ---- the list of items ----

struct Item {
  std::string instance;
  std::function<void()> run;
};

std::vector<Item> list_items() {
  std::vector<Item> items;
  using Shape = std::array<int, 3>;
  // Whole tiles; several tiles; less than a tile, rows of 16 bytes times an odd number; more tiles than
  // blocks.
  for (const Shape s :
       {Shape{256, 256, 256}, Shape{384, 512, 320}, Shape{200, 136, 72}, Shape{2040, 4104, 264}})
    for (const Instance& i : instances)
      items.push_back({i.name, [&i, s] { check_instance(i, s[0], s[1], s[2], "check", i.limit()); }});
  for (const int k : {4096, 16384})
    for (const Instance& i : instances)
      if (i.layout == 0)
        items.push_back({i.name, [&i, k] {
                           check_instance(i, 512, 512, k, "accuracy", i.promote == 1 ? i.limit() : 1e-3);
                         }});
  const auto add_time = [&](const Instance& i, Shape s) {
    items.push_back({i.name, [&i, s] { time_instance(i, s[0], s[1], s[2]); }});
  };
  for (const int size : {4096, 8192, 2048, 1024})
    for (const Instance& i : instances) {
      if (quick ? size != 4096 || i.layout != 0 : i.layout == 3 && i.products != 1) continue;
      add_time(i, {size, size, size});
    }
  if (!quick) {
    // A layer 784 -> 1024 at batch 8192: its output, the gradient of its input, the gradient of its weights.
    for (const Instance& i : instances)
      if (i.layout < 3)
        add_time(
            i, std::array{Shape{8192, 1024, 784}, Shape{8192, 784, 1024}, Shape{784, 1024, 8192}}[i.layout]);
    for (const int size : {1024, 4096, 8192})
      for (const int parts : {1, 2, 3}) items.push_back({"split", [=] { time_split(size, parts); }});
  }
  return items;
}

// ---- the probe ----

template <bool TransA, bool TransB, int K>
struct Probe {
  using LayoutA = OperandLayout<TransA, K>;
  using LayoutB = OperandLayout<!TransB, K>;
  static constexpr int M = 64, N = 128, shared_bytes = 226 * 1024;
  Operands o{M, N, K, 1, true};
  std::vector<double> exact = std::vector<double>(M * N);
  std::vector<float> got = std::vector<float>(M * N);
  CUtensorMap map_a = TransA ? tensor_map(o.planes_a.data, M, K, 0, M, K, LayoutA::map_swizzle)
                             : tensor_map(o.planes_a.data, K, M, 0, K, M, LayoutA::map_swizzle);
  CUtensorMap map_b = TransB ? tensor_map(o.planes_b.data, K, N, 0, K, N, LayoutB::map_swizzle)
                             : tensor_map(o.planes_b.data, N, K, 0, 64, K, LayoutB::map_swizzle);

  bool right(Offsets a, Offsets b) {
    o.poison();
    probe_wgmma<TransA, TransB, K><<<1, 128, shared_bytes>>>(map_a, map_b, a, b, o.c.data, shared_bytes / 4);
    EDF_CUDA(cudaGetLastError());
    EDF_CUDA(cudaMemcpy(got.data(), o.c.data, M * N * 4, cudaMemcpyDeviceToHost));
    double difference = 0, norm = 0;
    for (int i = 0; i < M * N; ++i) {
      difference += (got[i] - exact[i]) * (got[i] - exact[i]);
      norm += exact[i] * exact[i];
    }
    return difference <= 1e-10 * norm;
  }

  // What offsets are right for one operand, with those for the other taken from OperandLayout.
  std::string try_all(const std::function<bool(Offsets)>& is_right) {
    constexpr std::uint32_t values[] = {16, 128, 512, 1024, 2048, 4096, 8192};
    std::string found;
    for (const std::uint32_t stride : values)
      for (const std::uint32_t k16 : {32u, 64u, 128u, 1024u, 2048u, 4096u}) {
        std::string leadings;
        std::size_t some = 0;
        for (const std::uint32_t leading : values) {
          if (!is_right({leading, stride, k16})) continue;
          leadings.append(" ").append(std::to_string(leading));
          ++some;
        }
        if (some == 0) continue;
        if (!found.empty()) found.append("; ");
        found.append("leading").append(some == std::size(values) ? " any" : leadings);
        found.append(" stride ").append(std::to_string(stride)).append(" k16 ").append(std::to_string(k16));
      }
    return found;
  }

  void report(char operand, bool mn_major, Offsets chosen, bool all,
              const std::function<bool(Offsets)>& is_right) {
    const std::string found = all ? try_all(is_right) : "not tried";
    std::printf(
        "{\"row\": \"probe\", \"layout\": \"%s\", \"k\": %d, \"operand\": \"%c\", \"major\": \"%s\", "
        "\"chosen\": \"leading %u stride %u k16 %u\", \"right\": \"%s\", \"status\": \"%s\"}\n",
        layout_names[2 * TransA + TransB], K, operand, mn_major ? "MN" : "K", chosen.leading, chosen.stride,
        chosen.k16, found.c_str(), is_right(chosen) ? "PASS" : "FAIL");
  }

  void run(bool all) {
    EDF_CUDA(cudaFuncSetAttribute(probe_wgmma<TransA, TransB, K>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  shared_bytes));
    const Instance as{"", 2 * TransA + TransB, 1, 0, nullptr};
    DeviceArray<double> reference(M * N);
    naive(o, as, reference.data);
    EDF_CUDA(cudaMemcpy(exact.data(), reference.data, M * N * 8, cudaMemcpyDeviceToHost));
    const Offsets a{LayoutA::leading, LayoutA::stride, LayoutA::k16};
    const Offsets b{LayoutB::leading, LayoutB::stride, LayoutB::k16};
    report('A', TransA, a, all, [&](Offsets x) { return right(x, b); });
    report('B', !TransB, b, all, [&](Offsets x) { return right(a, x); });
  }
};

template <int K>
void probe_layouts(bool all) {
  Probe<false, true, K>().run(all);  // both operands K-major: the best known, so it comes first
  Probe<false, false, K>().run(all);
  Probe<true, true, K>().run(all);
  Probe<true, false, K>().run(all);
}

}  // namespace

int main(int argc, char** argv) {
  double seconds = 1e9;
  int from = 0;
  bool probe = false;
  std::string only;
  std::vector<std::string> skip;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const bool more = i + 1 < argc;
    if (arg == "--probe")
      probe = true;
    else if (arg == "--quick")
      quick = true;
    else if (arg == "--seconds" && more)
      seconds = std::atof(argv[++i]);
    else if (arg == "--from" && more)
      from = std::atoi(argv[++i]);
    else if (arg == "--only" && more)
      only = argv[++i];
    else if (arg == "--skip" && more)
      skip.push_back(argv[++i]);
    else
      return std::fprintf(stderr, "unknown argument %s\n", argv[i]), 2;
  }
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  seconds_since_start();
  prepare_device();
  if (probe) {
    alarm(20);
    for (const bool all : {false, true}) {  // wrong offsets may fault, so the chosen ones go first
      probe_layouts<64>(all);
      probe_layouts<32>(all);
    }
    return 0;
  }
  list_instances();
  const std::vector<Item> items = list_items();
  for (int i = from; i < static_cast<int>(items.size()); ++i) {
    const std::string& name = items[i].instance;
    if (std::find(skip.begin(), skip.end(), name) != skip.end() || (!only.empty() && only != name)) continue;
    if (seconds_since_start() > seconds) {
      std::printf("# out of time before item %d of %zu\n", i, items.size());
      break;
    }
    std::printf("# begin %d %s\n", i, name.c_str());
    alarm(10);  // ends the process
    items[i].run();
  }
  std::printf("# done after %.1f s\n", seconds_since_start());
  return 0;
}
