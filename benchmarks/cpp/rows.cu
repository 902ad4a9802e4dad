// Decides how the engine spreads rows, scattered sums and columns over threads: times its kernels of softmax,
// of the loss from scores, of scatter_add_rows and of sums beside alternatives made of the same parts, each
// checked in float64. From the root of the repository:
//
//   nvcc -O3 -std=c++20 -gencode=arch=compute_90a,code=sm_90a -split-compile=0 -fmad=false
//     -DEDF_ISA=cuda -Icsrc -o rows benchmarks/cpp/rows.cu
//   rows [SECONDS]           40, if not given; what is left out then is missing in the summary
//
// One JSON object per line: a row "time" for each op, shape and variant ("engine", or how a row is spread:
// threads x elements that each keeps in registers, 0 for long rows; a copy of as many floats is the op
// "copy"), and last a row "summary": what the engine chooses, the best of all variants, and the copy.
// `error` is in units of what roundings explain. The status is 1 where a result was wrong or a launch failed,
// and 3 after an error that the device does not survive.
#include "ops/loss.cu"  // the engine's
#include "ops/softmax.cu"
#include "rows_bench.h"
#include "rows_check.h"
#include "rows_sums.h"

namespace edfcore::rows {

namespace {

// ---- the kernels for rows, with any shape ----

template <class Shape, int Arrays>
void run_rows(Op op, const Launch& l) {
  using namespace cuda;
  const View& x = l.in[op == Op::loss_grad ? 1 : 0];
  const std::int64_t rows = x.dims[0];
  const auto in = [&](int k) { return pointer<const float>(l.in[k]); };
  float* out = pointer<float>(l.out[0]);
  float* const none = nullptr;
  if constexpr (Arrays == 2) {
    const Rows r = rows_of<Shape, float>(rows, x, {in(0), in(1), out});
    launch_rows<Shape, 2, float>(l,
                                 op == Op::softmax_grad ? softmax_grad_rows<Shape, false, float>
                                                        : softmax_grad_rows<Shape, true, float>,
                                 r, in(0), in(1), out);
  } else if (op == Op::loss) {
    launch_rows<Shape, 1, float>(l, log_loss_scores_rows<Shape, true, false, float>,
                                 rows_of<Shape, float>(rows, x, {in(0)}), in(0), labels_of(l.in[1]), none,
                                 none, out, reporter(l, 1));
  } else if (op == Op::loss_grad) {
    launch_rows<Shape, 1, float>(l, log_loss_scores_rows<Shape, false, true, float>,
                                 rows_of<Shape, float>(rows, x, {in(1), out}), in(1), labels_of(l.in[2]),
                                 in(0), out, none, reporter(l, 2));
  } else {
    launch_rows<Shape, 1, float>(
        l, op == Op::softmax ? softmax_rows<Shape, false, float> : softmax_rows<Shape, true, float>,
        rows_of<Shape, float>(rows, x, {in(0), out}), in(0), out);
  }
}

// Keeps nothing: what is read again comes from the cache, or does not.
template <class Shape>
void run_reread(Op, const Launch& l) {
  using namespace cuda;
  const std::int64_t rows = l.in[0].dims[0];
  const auto* x = pointer<const float>(l.in[0]);
  auto* y = pointer<float>(l.out[0]);
  launch(softmax_rows<Shape, false, float>, blocks_for(rows, 1), Shape::threads, 0, l.stream, x, y,
         rows_of<Shape, float>(rows, l.in[0], {x, y}));
}

struct RowVariant {
  std::int64_t least, most;  // columns
  unsigned ops;
  const char* name;
  void (*run)(Op, const Launch&);
};
constexpr unsigned bit(Op op) { return 1u << static_cast<int>(op); }
constexpr unsigned gradients = bit(Op::softmax_grad) | bit(Op::log_softmax_grad);

#define FORWARD(LEAST, MOST, LANES, N) \
  {LEAST, MOST, ~gradients, #LANES " x " #N, run_rows<cuda::RowShapeOf<LANES, N, float>, 1>}
#define GRADIENT(LEAST, MOST, LANES, N) \
  {LEAST, MOST, gradients, #LANES " x " #N, run_rows<cuda::RowShapeOf<LANES, N, float>, 2>}
// clang-format off
constexpr RowVariant row_variants[] = {
    FORWARD(10, 10, 4, 4),         FORWARD(10, 10, 2, 8),       FORWARD(10, 10, 16, 1),
    FORWARD(64, 64, 16, 4),        FORWARD(64, 64, 4, 16),
    FORWARD(256, 256, 8, 32),      FORWARD(256, 256, 32, 8),
    FORWARD(1000, 1024, 64, 16),   FORWARD(1000, 1024, 128, 8), FORWARD(1000, 1024, 256, 4),
    FORWARD(2048, 2048, 64, 32),   FORWARD(2048, 2048, 256, 8), FORWARD(2048, 2048, 512, 4),
    FORWARD(4096, 4096, 256, 16),  FORWARD(4096, 4096, 512, 8), FORWARD(4096, 4096, 1024, 4),
    FORWARD(8192, 8192, 512, 16),  FORWARD(8192, 8192, 1024, 8),
    FORWARD(16384, 16384, 1024, 16), FORWARD(16384, 16384, 1024, 0),
    FORWARD(32768, 32768, 1024, 32), FORWARD(8192, 65536, 512, 0),
    {32768, 65536, bit(Op::softmax), "1024 x 0, nothing kept", run_reread<cuda::RowShapeOf<1024, 0, float>>},
    GRADIENT(10, 10, 4, 4),        GRADIENT(10, 10, 16, 1),
    GRADIENT(64, 64, 16, 4),       GRADIENT(64, 64, 8, 8),      GRADIENT(256, 256, 32, 8),
    GRADIENT(1000, 1024, 64, 16),  GRADIENT(1000, 1024, 256, 4),
    GRADIENT(2048, 4096, 512, 8),  GRADIENT(2048, 2048, 256, 8), GRADIENT(4096, 4096, 1024, 4),
    GRADIENT(8192, 8192, 1024, 8), GRADIENT(16384, 16384, 1024, 16), GRADIENT(8192, 65536, 512, 0),
};
// clang-format on
#undef FORWARD
#undef GRADIENT

struct EngineOp {
  Op op;
  const char* name;
  int arrays, kept;  // that move, and that a kernel keeps rows of
  void (*kernel)(const Launch&);
};
constexpr EngineOp row_ops[] = {
    {Op::softmax, "softmax", 2, 1, cuda::softmax_kernel},
    {Op::log_softmax, "log_softmax", 2, 1, cuda::log_softmax_kernel},
    {Op::softmax_grad, "softmax_grad", 3, 2, cuda::softmax_grad_kernel},
    {Op::log_softmax_grad, "log_softmax_grad", 3, 2, cuda::log_softmax_grad_kernel},
    {Op::loss, "log_loss_scores", 1, 1, cuda::log_loss_scores_kernel},
    {Op::loss_grad, "log_loss_scores_grad", 2, 1, cuda::log_loss_scores_grad_kernel},
};

void set_arguments(Arguments& a, const Bench& bench, Op op, std::int64_t rows, std::int64_t cols,
                   std::int64_t at) {
  const float *x = bench.a.data + at, *y = bench.b.data + at;
  const bool grad = op == Op::loss_grad;
  a.set(3, bench.c.data + at, rows, op == Op::loss ? 0 : cols, DType::f32);
  if (grad) a.set(0, bench.b.data, rows, 0, DType::f32);
  a.set(grad ? 1 : 0, x, rows, cols, DType::f32);
  if (op == Op::softmax_grad || op == Op::log_softmax_grad) a.set(1, y, rows, cols, DType::f32);
  if (op == Op::loss || grad) a.set(grad ? 2 : 1, bench.labels(), rows, 0, DType::i32);
}

template <int Arrays>
std::string chosen_shape(std::int64_t cols) {
  std::string name;
  cuda::visit_row_shape<float, Arrays>(cols, [&](auto shape) {
    name = std::to_string(decltype(shape)::lanes) + " x " + std::to_string(decltype(shape)::n);
  });
  return name;
}

std::string rows_case(Bench& bench, const EngineOp& engine, std::int64_t rows, std::int64_t cols,
                      std::optional<double> copy) {
  const std::int64_t n = rows * cols, step = (n + 63) / 64 * 64;
  const int sets = Bench::sets_of(n);
  std::list<Arguments> all;
  std::vector<const Launch*> launches;
  for (int k = 0; k < sets; ++k) {
    set_arguments(all.emplace_back(bench), bench, engine.op, rows, cols, k * step);
    launches.push_back(&all.back().launch);
  }
  const Subject s{engine.name, numbers(rows, cols), 4.0 * engine.arrays * static_cast<double>(n)};
  const auto measure = [&](const char* variant, const std::function<void(const Launch&)>& run) {
    bench.poison(bench.c.data, engine.op == Op::loss ? rows : n);
    return bench.measure(
        s, variant, sets, [&] { run(*launches[0]); },
        [&] {
          check_rows<<<static_cast<unsigned>(rows), check_threads, 0, bench.stream>>>(
              engine.op, bench.a.data, bench.b.data, bench.labels(), bench.c.data, cols, bench.worst.data);
        },
        [&](int k) { run(*launches[static_cast<std::size_t>(k)]); });
  };
  Best best(measure("engine", engine.kernel));
  for (const RowVariant& v : row_variants)
    if ((v.ops & bit(engine.op)) != 0 && v.least <= cols && cols <= v.most && bench.in_time())
      best.add(v.name, measure(v.name, [&](const Launch& l) { v.run(engine.op, l); }));
  return best.text(s, engine.kept == 1 ? chosen_shape<1>(cols) : chosen_shape<2>(cols), copy);
}

std::string all_cases(Bench& bench) {
  std::string summary;
  const auto add = [&](const std::string& part) { summary += (summary.empty() ? "" : ",") + part; };
  constexpr std::int64_t shapes[][2] = {{32768, 1024}, {65536, 10},   {131072, 64},  {32768, 256},
                                        {32768, 1000}, {32768, 1021}, {16384, 2048}, {16384, 4096},
                                        {8192, 8192},  {8192, 16384}, {4096, 32768}, {4096, 65536}};
  for (const auto& [rows, cols] : shapes) {
    if (!bench.in_time()) break;
    fill_labels<<<blocks_of(rows), 256, 0, bench.stream>>>(bench.labels(), rows, cols);
    EDF_CUDA(cudaGetLastError());
    const auto copy = bench.copy(numbers(rows, cols), rows * cols);
    for (const EngineOp& op : row_ops)
      if (bench.in_time()) add(rows_case(bench, op, rows, cols, copy));
  }
  return summary;
}

}  // namespace

}  // namespace edfcore::rows

int main(int argc, char** argv) {
  using namespace edfcore;
  hopper::seconds_since_start();
  std::setvbuf(stdout, nullptr, _IOLBF, 1 << 16);
  rows::Bench bench;
  hopper::on_device_error = [] {
    if (!rows::row.empty()) std::printf("%s%snull}\n", rows::row.c_str(), rows::not_ok);
  };
  if (argc > 1) bench.seconds = std::atof(argv[1]);
  std::string summary;
  const auto add = [&](const std::string& part) { summary += (summary.empty() ? "" : ",") + part; };
  struct Scatter {
    std::int64_t entries, width, rows;
    bool one_row;
  };
  for (const auto& [n, width, to, one_row] : {Scatter{65536, 512, 50000, false},
                                              {8192, 64, 1000, false},
                                              {65536, 64, 1000, true},
                                              {65536, 64, 8, false}})
    if (bench.in_time()) add(rows::scatter_case(bench, n, width, to, one_row));
  struct Columns {
    std::int64_t rows, cols;
    bool max;
  };
  for (const auto& [n, cols, max] : {Columns{8192, 4096, false},
                                     {8192, 4096, true},
                                     {65536, 256, false},
                                     {1000000, 10, false},
                                     {64, 1024, false}})
    if (bench.in_time()) add(rows::columns_case(bench, n, cols, max));
  if (bench.in_time()) add(rows::all_cases(bench));
  Status status;  // a kernel that found a bad index has read what it must not
  EDF_CUDA(cudaMemcpy(&status, bench.status.data, sizeof status, cudaMemcpyDeviceToHost));
  if (status.code != Status::ok) ++bench.failures;
  std::printf(
      "{\"row\":\"summary\",\"seconds\":%.1f,\"complete\":%s,\"failures\":%d,\"status\":%d,\"shapes\":[%s]}"
      "\n",
      hopper::seconds_since_start(), bench.out_of_time ? "false" : "true", bench.failures,
      static_cast<int>(status.code), summary.c_str());
  return bench.failures > 0 ? 1 : 0;
}
