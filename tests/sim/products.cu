// Products by tensor cores on the simulated device, against sums in double: what fragments hold, and matrices
// in all layouts, of 16 bits, too, which no program in Python makes yet. `products CASE` prints what came
// out; test_simulator.py judges it.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "core/half.h"
#include "core/kernel.h"
#include "device/backend.h"
#include "device/mma.h"
#include "ops/float32_matmul.h"
#include "ops/kernel_cuda.h"

namespace edfcore {
namespace cuda {

void matmul_kernel(const Launch& l);
void affine_kernel(const Launch& l);

namespace {

// Small integers divided by a power of two: all sums of products of them are exact.
double number(std::int64_t i) { return static_cast<double>((i * 2654435761 >> 7) % 23 - 11) / 8; }

template <class T>
struct Array {
  explicit Array(std::size_t n)
      : n(n), data(static_cast<T*>(cuda_backend(0).allocate((n + 1) * sizeof(T)))) {}
  explicit Array(const std::vector<T>& from) : Array(from.size()) {
    if (n > 0) cuda_backend(0).upload(data, from.data(), n * sizeof(T));
  }
  ~Array() { cuda_backend(0).release(data, (n + 1) * sizeof(T)); }
  std::vector<T> get() const {
    std::vector<T> out(n);
    cuda_backend(0).download(out.data(), data, n * sizeof(T));
    return out;
  }
  std::size_t n;
  T* data;
};

void say(const char* what, bool good) { std::printf("%s %s\n", what, good ? "right" : "wrong"); }

// ---- fragments ----

template <class T>
__device__ std::uint32_t word(const T* first, int step) {
  if constexpr (sizeof(T) == 4) {
    return __float_as_uint(first[0]);
  } else {
    return first[0].bits | static_cast<std::uint32_t>(first[step].bits) << 16;
  }
}

// One warp: c (16 x 8) += a (16 x k) b (k x 8), all by rows, with fragments as the PTX ISA writes them down.
template <class T>
__global__ void one_product(const T* a, const T* b, float* c) {
  constexpr int per_word = 4 / static_cast<int>(sizeof(T)), K = 8 * per_word;
  const int lane = static_cast<int>(threadIdx.x), group = lane >> 2, in_group = lane % 4;
  std::uint32_t of_a[4], of_b[2];
  for (int i = 0; i < 4; ++i) {
    const int row = i % 2 == 0 ? group : group + 8, first = (in_group + (i < 2 ? 0 : 4)) * per_word;
    of_a[i] = word(a + row * K + first, 1);
  }
  for (int i = 0; i < 2; ++i) of_b[i] = word(b + (in_group + 4 * i) * per_word * 8 + group, 8);
  float d[4];
  for (int i = 0; i < 4; ++i) d[i] = c[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)];
  if constexpr (std::is_same_v<T, float>)
    mma_tf32(d, of_a, of_b[0], of_b[1]);
  else if constexpr (std::is_same_v<T, BFloat16>)
    mma_bf16(d, of_a, of_b[0], of_b[1]);
  else
    mma_f16(d, of_a, of_b[0], of_b[1]);
  for (int i = 0; i < 4; ++i) c[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)] = d[i];
}

template <class T>
std::vector<T> numbers(std::int64_t n, std::int64_t from) {
  std::vector<T> out;
  for (std::int64_t i = 0; i < n; ++i) out.push_back(static_cast<T>(static_cast<float>(number(from + i))));
  return out;
}

template <class T>
bool fragments() {
  constexpr int K = 32 / static_cast<int>(sizeof(T));
  const std::vector<T> a = numbers<T>(16 * K, 1), b = numbers<T>(K * 8, 1000);
  const std::vector<float> c = numbers<float>(16 * 8, 2000);
  const Array<T> on_a(a), on_b(b);
  const Array<float> on_c(c);
  launch(one_product<T>, 1, 32, 0, cuda_backend(0).stream(), on_a.data, on_b.data, on_c.data);
  const std::vector<float> found = on_c.get();
  bool good = true;
  for (std::size_t row = 0; row < 16; ++row)
    for (std::size_t col = 0; col < 8; ++col) {
      double sum = static_cast<double>(c[row * 8 + col]);
      for (std::size_t k = 0; k < K; ++k)
        sum += static_cast<double>(static_cast<float>(a[row * K + k])) *
               static_cast<double>(static_cast<float>(b[k * 8 + col]));
      good = good && static_cast<double>(found[row * 8 + col]) == sum;
    }
  return good;
}

// 1 + 0x1.ep-24 would be rounded up; a sum in tensor cores is cut.
__global__ void cut(float* out) {
  const std::uint32_t a[4] = {threadIdx.x % 4 == 0 ? __float_as_uint(1.0f) : 0, 0, 0, 0};
  float d[4] = {1, 1, 1, 1};
  mma_tf32(d, a, __float_as_uint(0x1.ep-24f), 0);
  out[threadIdx.x] = d[0];
}

// Eight copies of one thread each, of which the last group has not been waited for when it is looked at.
__global__ void two_groups(const float* in, float* out) {
  EDF_SHARED(float, here, 8);
  here[threadIdx.x] = -1;
  here[4 + threadIdx.x] = -1;
  copy_async<4>(here + threadIdx.x, in + threadIdx.x, threadIdx.x < 3 ? 4 : 0);
  copy_async_commit();
  copy_async<4>(here + 4 + threadIdx.x, in + 4 + threadIdx.x, 4);
  copy_async_commit();
  copy_async_wait<1>();
  out[threadIdx.x] = here[threadIdx.x];
  out[4 + threadIdx.x] = here[4 + threadIdx.x];
  copy_async_wait<0>();
  out[8 + threadIdx.x] = here[4 + threadIdx.x];
}

void words() {
  say("tf32", fragments<float>());
  say("bf16", fragments<BFloat16>());
  say("f16", fragments<Float16>());
  const Array<float> out(32);
  launch(cut, 1, 32, 0, cuda_backend(0).stream(), out.data);
  say("cut", out.get()[0] == 1.0f && out.get()[31] == 1.0f);
  bool good = __uint_as_float(to_tf32(0x1.804p0f)) == 0x1.804p0f;
  good = good && (to_tf32(1.0f + 0x1p-11f) & 0xffffe000u) == __float_as_uint(1.0f + 0x1p-10f);
  good = good && (to_tf32(-1.0f - 0x1.fp-12f) & 0xffffe000u) == __float_as_uint(-1.0f);
  good = good && std::isinf(__uint_as_float(to_tf32(INFINITY))) && std::isnan(__uint_as_float(to_tf32(NAN)));
  say("rounding", good);
  const Array<float> in(numbers<float>(8, 5)), seen(12);
  launch(two_groups, 1, 4, 0, cuda_backend(0).stream(), in.data, seen.data);
  const std::vector<float> want = in.get(), found = seen.get();
  good = found[3] == 0;
  for (std::size_t i = 0; i < 4; ++i)
    good = good && (i == 3 || found[i] == want[i]) && found[4 + i] == -1 && found[8 + i] == want[4 + i];
  say("copies", good);
}

// ---- matrices ----

struct Shape {
  std::int64_t batch, m, n, k;
};

template <class T>
bool product(DType dtype, Shape s, bool trans_a, bool trans_b, bool bias, std::size_t shift, bool fine) {
  const auto make = [&](std::int64_t n, std::int64_t from) {
    std::vector<T> out = numbers<T>(n, from);
    if (fine)  // numbers whose sums are rounded
      for (T& x : out) x = static_cast<T>(static_cast<float>(x) * 1.03f);
    out.insert(out.begin(), shift, T{});
    return out;
  };
  const std::vector<T> a = make(s.batch * s.m * s.k, 1), b = make(s.batch * s.k * s.n, 77777),
                       plus = make(s.n, 999);
  const Array<T> on_a(a), on_b(b), on_plus(plus), c(static_cast<std::size_t>(s.batch * s.m * s.n));
  const std::int64_t dims_a[3] = {s.batch, trans_a ? s.k : s.m, trans_a ? s.m : s.k};
  const std::int64_t dims_b[3] = {s.batch, trans_b ? s.n : s.k, trans_b ? s.k : s.n};
  const std::int64_t dims_c[3] = {s.batch, s.m, s.n};
  const int skip = s.batch == 1 ? 1 : 0, rank = 3 - skip;
  const View in[3] = {{on_a.data + shift, dims_a + skip, rank, dtype, s.batch * s.m * s.k},
                      {on_b.data + shift, dims_b + skip, rank, dtype, s.batch * s.k * s.n},
                      {on_plus.data + shift, dims_c + 2, 1, dtype, s.n}};
  const View out{c.data, dims_c + skip, rank, dtype, s.batch * s.m * s.n};
  const std::int64_t bytes = matmul_scratch(s.m, s.n, s.k, 4, s.batch);
  const Array<std::byte> scratch(static_cast<std::size_t>(bytes));
  Attrs attrs;
  attrs.trans_a = trans_a;
  attrs.trans_b = trans_b;
  const Launch l{in,
                 &out,
                 bias ? 3 : 2,
                 1,
                 &attrs,
                 bytes > 0 ? scratch.data : nullptr,
                 cuda_backend(0).status(),
                 0,
                 cuda_backend(0).stream()};
  bias ? affine_kernel(l) : matmul_kernel(l);
  const std::vector<T> found = c.get();
  for (std::int64_t nth = 0; nth < s.batch; ++nth)
    for (std::int64_t row = 0; row < s.m; ++row)
      for (std::int64_t col = 0; col < s.n; ++col) {
        double sum = 0, magnitude = 0;
        for (std::int64_t k = 0; k < s.k; ++k) {
          const std::int64_t in_a = nth * s.m * s.k + (trans_a ? k * s.m + row : row * s.k + k),
                             in_b = nth * s.k * s.n + (trans_b ? col * s.k + k : k * s.n + col);
          const double term =
              static_cast<double>(static_cast<float>(a[shift + static_cast<std::size_t>(in_a)])) *
              static_cast<double>(static_cast<float>(b[shift + static_cast<std::size_t>(in_b)]));
          sum += term;
          magnitude += std::abs(term);
        }
        if (bias) sum += static_cast<double>(static_cast<float>(plus[shift + static_cast<std::size_t>(col)]));
        const T got = found[static_cast<std::size_t>((nth * s.m + row) * s.n + col)];
        const T want = static_cast<T>(static_cast<float>(sum));
        const double error = std::abs(static_cast<double>(static_cast<float>(got)) - sum);
        const double last = dtype == DType::bf16 ? 0x1p-8 : 0x1p-11;
        if (fine ? !(error <= std::abs(sum) * last + magnitude * 0x1p-20)
                 : std::memcmp(&got, &want, sizeof got) != 0) {
          std::printf("%lld %lld %lld, %d %d: (%lld, %lld) is %g and not %g\n", static_cast<long long>(s.m),
                      static_cast<long long>(s.n), static_cast<long long>(s.k), trans_a, trans_b,
                      static_cast<long long>(row), static_cast<long long>(col),
                      static_cast<double>(static_cast<float>(got)), sum);
          return false;
        }
      }
  return true;
}

constexpr Shape shapes[] = {{1, 64, 64, 32}, {1, 1, 1, 1},   {1, 70, 9, 33},  {1, 5, 130, 100},
                            {3, 17, 24, 40}, {1, 40, 40, 0}, {1, 33, 16, 520}};

template <class T>
void matrices(const char* name, DType dtype) {
  bool good = true;
  for (const Shape& shape : shapes)
    for (int layout = 0; layout < 4; ++layout) {
      const bool trans_a = layout >= 2, trans_b = layout % 2 == 1;
      good = good && product<T>(dtype, shape, trans_a, trans_b, false, 0, false);
      good = good && product<T>(dtype, shape, trans_a, trans_b, false, 1, sizeof(T) == 2);
    }
  good = good && product<T>(dtype, {1, 70, 24, 33}, false, false, true, 0, false);
  good = good && product<T>(dtype, {1, 20, 24, 600}, false, false, true, 0, sizeof(T) == 2);
  say(name, good);
}

// 128 tiles of 128 x 128, with edges.
void large() {
  say("large bf16", product<BFloat16>(DType::bf16, {1, 1410, 1300, 32}, false, true, false, 0, false));
  say("large f16", product<Float16>(DType::f16, {1, 1290, 1410, 16}, true, false, false, 0, false));
}

}  // namespace
}  // namespace cuda
}  // namespace edfcore

int main(int argc, char** argv) {
  using namespace edfcore::cuda;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "words") == 0) words();
    if (std::strcmp(argv[i], "matrices") == 0) {
      matrices<BFloat16>("bf16", edfcore::DType::bf16);
      matrices<Float16>("f16", edfcore::DType::f16);
      for (const char* how : {"high", "medium"}) {
        edfcore::set_float32_matmul(how);
        matrices<float>(how, edfcore::DType::f32);
      }
    }
    if (std::strcmp(argv[i], "large") == 0) large();
  }
  return 0;
}
