// Parameter updates on a CUDA device: any number of tensors in one launch, up to what a table of them among
// the kernel's arguments holds. One tensor alone is a table of one.
#include <algorithm>

#include "ops/kernel_cuda.h"
#include "ops/update.h"

namespace edfcore::cuda {

namespace {

// One of the tensors of a launch. P: how many of its arrays a step takes, the parameter and its gradient
// first.
template <class T, int P>
struct Updated {
  T* data[P];
  const double* numbers;  // as in Launch
  T first, second;        // the two numbers, where `numbers` is null
  std::int64_t size;
  std::int32_t first_block;
  bool wide;  // all of `data` is aligned for packs
};

template <class T, int P, int N>
struct Table {
  Updated<T, P> tensors[N];
  std::int64_t* steps[P > 2 ? N : 1];  // that each has taken, where the rule keeps something
  std::int32_t count;
  const T* constants;  // of Adam
  const Status* status;
};

constexpr std::size_t argument_bytes = 4096;  // that any kernel may have
template <class T, int P>
constexpr int most_tensors = static_cast<int>((argument_bytes - sizeof(Table<T, P, 1>)) /
                                              (sizeof(Updated<T, P>) + (P > 2 ? sizeof(std::int64_t*) : 0)));

template <class T>
constexpr int pack = 16 / static_cast<int>(sizeof(T));
template <class T>
constexpr std::int64_t block_elements = block_threads * pack<T>;

// One step for one element x of each array.
template <template <class> class Rule, class T, int P>
__device__ void step(const Rule<T>& rule, T (&x)[P], const T (&constants)[3]) {
  if constexpr (P == 2) rule(x[0], x[1]);
  if constexpr (P == 3) rule(x[0], x[1], x[2]);
  if constexpr (P == 4) rule(x[0], x[1], x[2], x[3], constants[0], constants[1], constants[2]);
}

template <template <class> class Rule, class T, int P>
__device__ void step_at(const Rule<T>& rule, const Updated<T, P>& tensor, std::int64_t i,
                        const T (&constants)[3]) {
  T x[P];
  EDF_UNROLL
  for (int k = 0; k < P; ++k) x[k] = tensor.data[k][i];
  step(rule, x, constants);
  EDF_UNROLL
  for (int k = 0; k < P; ++k)
    if (k != 1) tensor.data[k][i] = x[k];
}

// The status is read on the device: a step in which a kernel met bad data updates nothing, though the host
// has not looked yet.
template <template <class> class Rule, class T, int P, int N>
__global__ void __launch_bounds__(block_threads)
    update_tensors(const __grid_constant__ Table<T, P, N> table) {
  constexpr int V = pack<T>;
  const auto block = static_cast<std::int32_t>(blockIdx.x);
  if (table.status->code != Status::ok) return;
  if (P > 2 && block < table.count && threadIdx.x == 0) ++*table.steps[block];  // each has a block
  int at = 0;  // the last tensor that begins no later
  for (int end = N == 1 ? 1 : table.count; end - at > 1;) {
    const int middle = (at + end) / 2;
    (table.tensors[middle].first_block <= block ? at : end) = middle;
  }
  const Updated<T, P>& tensor = table.tensors[at];
  Rule<T> rule{tensor.first, tensor.second};
  if (tensor.numbers != nullptr)
    rule = {static_cast<T>(tensor.numbers[0]), static_cast<T>(tensor.numbers[1])};
  T constants[3] = {};
  if constexpr (P == 4) {
    EDF_UNROLL
    for (int k = 0; k < 3; ++k) constants[k] = table.constants[k];
  }
  const std::int64_t base = (block - tensor.first_block) * block_elements<T>;
  if (!tensor.wide) {
    EDF_UNROLL
    for (int v = 0; v < V; ++v)
      if (const std::int64_t i = base + v * block_threads + threadIdx.x; i < tensor.size)
        step_at(rule, tensor, i, constants);
    return;
  }
  const std::int64_t first = base + static_cast<std::int64_t>(threadIdx.x) * V;
  if (first + V > tensor.size) {
    for (std::int64_t i = first; i < tensor.size; ++i) step_at(rule, tensor, i, constants);
    return;
  }
  Pack<T, V> packs[P];
  EDF_UNROLL
  for (int k = 0; k < P; ++k) packs[k] = load_pack<T, V>(tensor.data[k] + first);
  EDF_UNROLL
  for (int v = 0; v < V; ++v) {
    T x[P];
    EDF_UNROLL
    for (int k = 0; k < P; ++k) x[k] = packs[k].v[v];
    step(rule, x, constants);
    EDF_UNROLL
    for (int k = 0; k < P; ++k) packs[k].v[v] = x[k];
  }
  EDF_UNROLL
  for (int k = 0; k < P; ++k)
    if (k != 1) store_pack(tensor.data[k] + first, packs[k]);
}

// The launches that follow each other in a table.
template <template <class> class Rule, class T, int P, int N>
void launch_table(const Launch* const* launches, int count) {
  Table<T, P, N> table{};
  std::int64_t blocks = 0;
  for (int n = 0; n < count; ++n) {
    const Launch& l = *launches[n];
    Updated<T, P>& tensor = table.tensors[n];
    tensor.wide = true;
    for (int k = 0; k < P; ++k) {
      tensor.data[k] = pointer<T>(l.in[k]);
      tensor.wide = tensor.wide && aligned(l.in[k].data, 16);
    }
    if (P > 2) table.steps[n] = pointer<std::int64_t>(l.in[l.n_in - 1]);
    tensor.numbers = l.numbers;
    tensor.first = static_cast<T>(l.attrs->scalar);
    tensor.second = static_cast<T>(l.attrs->scalar2);
    tensor.size = l.out[0].size;
    tensor.first_block = static_cast<std::int32_t>(blocks);
    blocks += std::max<std::int64_t>(1, (tensor.size + block_elements<T> - 1) / block_elements<T>);
  }
  const Launch& any = *launches[0];
  table.count = count;
  table.status = any.status;
  if (P == 4) table.constants = pointer<const T>(any.in[4]);
  launch(update_tensors<Rule, T, P, N>, dim3(static_cast<unsigned>(blocks)), block_threads, 0, any.stream,
         table);
}

template <template <class> class Rule, class T, int P>
void launch_tables(const Launch* const* launches, int count) {
  if (count == 1) return launch_table<Rule, T, P, 1>(launches, count);
  if (count > 1) launch_table<Rule, T, P, most_tensors<T, P>>(launches, count);
}

// A table takes launches of one dtype, and of one rule's constants.
template <template <class> class Rule, int P>
void update(const Launch* launches, std::int64_t count) {
  constexpr int room = most_tensors<float, P>;
  constexpr std::int64_t most_elements = std::int64_t{1} << 38;  // blocks are counted in 31 bits
  const Launch* together[room];
  for (std::int64_t n = 0; n < count;) {
    const DType dtype = launches[n].out[0].dtype;
    visit_floating(dtype, [&](auto t) {
      using T = decltype(t);
      int found = 0;
      std::int64_t elements = 0;
      for (; n < count && found < most_tensors<T, P>; ++n) {
        const Launch& l = launches[n];
        const std::int64_t size = l.out[0].size;
        if (l.out[0].dtype != dtype) break;
        if (found > 0 && elements + size > most_elements) break;
        if (P == 4 && found > 0 && l.in[4].data != together[0]->in[4].data) break;
        elements += size;
        if (size > 0 || P > 2) together[found++] = &l;
      }
      launch_tables<Rule, T, P>(together, found);
    });
  }
}

}  // namespace

void sgd_many(const Launch* launches, std::int64_t count) { update<Sgd, 2>(launches, count); }
void momentum_many(const Launch* launches, std::int64_t count) { update<Momentum, 3>(launches, count); }
void adam_many(const Launch* launches, std::int64_t count) { update<Adam, 4>(launches, count); }

void sgd_kernel(const Launch& l) { sgd_many(&l, 1); }
void momentum_kernel(const Launch& l) { momentum_many(&l, 1); }
void adam_kernel(const Launch& l) { adam_many(&l, 1); }

}  // namespace edfcore::cuda
