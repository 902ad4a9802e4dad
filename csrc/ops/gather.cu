// Gather and scatter on a CUDA device. A bad index is reported, read as a zero and written nowhere; sums are
// taken in the order of the index, so that they are the same on every run.
#include "ops/scatter_cuda.h"

namespace edfcore::cuda {

namespace {

struct alignas(16) Wide {  // what rows are moved in where their size and place allow
  std::uint64_t low, high;
};

// A row is `width` units, of which a thread moves one.
template <class Unit, class Index>
__global__ void __launch_bounds__(block_threads)
    gather_units(const Unit* table, const Index* index, Unit* out, std::int64_t units, std::int64_t width,
                 std::int64_t rows, Reporter reporter) {
  const std::int64_t i = thread_number();
  if (i >= units) return;
  const Division at = divide(i, width);
  const std::int64_t row = static_cast<std::int64_t>(index[at.quotient]);
  const bool ok = 0 <= row && row < rows;
  if (!ok && at.remainder == 0) reporter.report(at.quotient, row, rows);
  out[i] = ok ? table[row * width + at.remainder] : Unit{};
}

template <class Index>
__global__ void __launch_bounds__(block_threads)
    check_only(const Index* index, std::int64_t size, std::int64_t bound, Reporter reporter) {
  const std::int64_t i = thread_number();
  if (i < size) checked(index, i, bound, reporter);
}

// Rows without elements move nothing, but their index is checked as any other.
void check_index(const Launch& l, std::int64_t bound) {
  const View& index = l.in[1];
  if (index.size == 0) return;
  visit_index(index.dtype, [&](auto i) {
    using Index = decltype(i);
    launch(check_only<Index>, blocks_for(index.size, block_threads), block_threads, 0, l.stream,
           pointer<const Index>(index), index.size, bound, reporter(l, 1));
  });
}

template <class Unit>
void gather(const Launch& l, std::int64_t row_bytes) {
  visit_index(l.in[1].dtype, [&](auto i) {
    using Index = decltype(i);
    const std::int64_t width = row_bytes / static_cast<std::int64_t>(sizeof(Unit)),
                       units = width * l.in[1].size;
    launch(gather_units<Unit, Index>, blocks_for(units, block_threads), block_threads, 0, l.stream,
           pointer<const Unit>(l.in[0]), pointer<const Index>(l.in[1]), pointer<Unit>(l.out[0]), units, width,
           l.in[0].dims[0], reporter(l, 1));
  });
}

constexpr int list_size = 1024;  // entries of the index that a block looks at in one go
constexpr int lists = block_threads / 32;

// A block owns `own` rows of the table and a band of columns. It walks the index once: its warps note, in
// order, which entries fall on its rows; then every thread adds them to its own elements.
template <class T, class Index>
__global__ void __launch_bounds__(block_threads, roomy)
    scatter_add(const T* g, const Index* index, T* out, std::int64_t count, std::int64_t width,
                std::int64_t rows, int own, int band, std::int64_t bands, Reporter reporter) {
  EDF_SHARED(std::int32_t, entry, list_size);   // position within the walk's current stretch
  EDF_SHARED(std::int32_t, target, list_size);  // its row, counted from the block's first
  EDF_SHARED(int, found, lists);
  const Division at = divide(static_cast<std::int64_t>(blockIdx.x), bands);
  const std::int64_t first_row = at.quotient * own, first_col = at.remainder * band;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int columns = static_cast<int>(width - first_col < band ? width - first_col : band);
  const int elements = static_cast<int>(rows - first_row < own ? rows - first_row : own) * columns;
  out += first_row * width + first_col;
  g += first_col;
  for (int e = thread; e < elements; e += block_threads) out[e / columns * width + e % columns] = T(0);
  for (std::int64_t start = 0; start < count; start += list_size) {
    // Each warp fills its own part of the list: warp w looks at entries [128 w, 128 w + 128).
    constexpr int part = list_size / lists;
    int length = 0;
    for (int step = 0; step < part; step += 32) {
      const std::int64_t i = start + warp * part + step + lane;
      const std::int64_t row = i < count ? static_cast<std::int64_t>(index[i]) : -1;
      if (blockIdx.x == 0 && i < count && (row < 0 || row >= rows)) reporter.report(i, row, rows);
      const bool mine = row >= first_row && row < rows && row - first_row < own;
      const unsigned votes = __ballot_sync(0xffffffffu, mine);
      if (mine) {
        const int slot = warp * part + length + __popc(votes & ((1u << lane) - 1u));
        entry[slot] = warp * part + step + lane;
        target[slot] = static_cast<std::int32_t>(row - first_row);
      }
      length += __popc(votes);
    }
    if (lane == 0) found[warp] = length;
    __syncthreads();
    for (int e = thread; e < elements; e += block_threads) {
      const int row = e / columns, col = e % columns;
      T* place = out + row * width + col;
      T sum = 0;
      bool touched = false;
      for (int w = 0; w < lists; ++w) {
        for (int slot = w * part; slot < w * part + found[w]; ++slot) {
          if (target[slot] != row) continue;
          sum = (touched ? sum : *place) + g[(start + entry[slot]) * width + col];
          touched = true;
        }
      }
      if (touched) *place = sum;
    }
    __syncthreads();
  }
}

template <class T, class Index>
__global__ void __launch_bounds__(block_threads)
    take_along(const T* x, const Index* index, T* out, std::int64_t size, std::int64_t entries,
               std::int64_t classes, Reporter reporter) {
  const std::int64_t i = thread_number();
  if (i >= size) return;
  const Checked c = checked(index, i, classes, reporter);
  out[i] = c.ok ? x[divide(i, entries).quotient * classes + c.value] : T(0);
}

// One thread an element of the output, which looks through its row's entries: there is one, most of the time.
template <class T, class Index>
__global__ void __launch_bounds__(block_threads)
    put_along(const T* g, const Index* index, T* out, std::int64_t size, std::int64_t entries,
              std::int64_t classes, Reporter reporter) {
  const std::int64_t i = thread_number();
  if (i >= size) return;
  const Division at = divide(i, classes);
  T sum = 0;
  for (std::int64_t n = at.quotient * entries; n < (at.quotient + 1) * entries; ++n) {
    const std::int64_t c = static_cast<std::int64_t>(index[n]);
    if (c == at.remainder) sum += g[n];
    if (at.remainder == 0 && (c < 0 || c >= classes)) reporter.report(n, c, classes);
  }
  out[i] = sum;
}

// Entries of an index in each row of x (..., C): one where the index has no last axis of its own.
std::int64_t entries_of(const View& index, const View& x) {
  return index.rank == x.rank ? index.dims[index.rank - 1] : 1;
}

}  // namespace

void gather_rows_kernel(const Launch& l) {
  const View &table = l.in[0], &out = l.out[0];
  if (out.size == 0) return check_index(l, table.dims[0]);
  const std::int64_t element = dtype_size(out.dtype), row_bytes = out.size / l.in[1].size * element;
  if (row_bytes % 16 == 0 && aligned(table.data, 16) && aligned(out.data, 16))
    return gather<Wide>(l, row_bytes);
  visit_width(element, [&](auto t) { gather<decltype(t)>(l, row_bytes); });
}

void scatter_add_rows_kernel(const Launch& l) {
  const View &index = l.in[1], &out = l.out[0];
  const std::int64_t rows = out.dims[0];
  if (out.size == 0) return check_index(l, rows);
  const std::int64_t width = out.size / rows;
  // Few rows: a block for each, so that there are enough of them. Many: shares, so that each reads the index
  // for 32.
  const int own = rows < 512 ? 1 : rows < 16384 ? static_cast<int>(rows / 512) : 32;
  const int band = own == 1 ? block_threads : 128;
  const std::int64_t bands = (width + band - 1) / band;
  visit_floating(out.dtype, [&](auto t) {
    using T = decltype(t);
    visit_index(index.dtype, [&](auto i) {
      using Index = decltype(i);
      if (l.scratch != nullptr && scatter_sorts(index.size, rows))
        return scatter_sorted<T, Index>(l, rows, width);
      launch(scatter_add<T, Index>, blocks_for((rows + own - 1) / own * bands, 1), block_threads, 0, l.stream,
             pointer<const T>(l.in[0]), pointer<const Index>(index), pointer<T>(out), index.size, width, rows,
             own, band, bands, reporter(l, 1));
    });
  });
}

void take_along_last_kernel(const Launch& l) {
  const View &x = l.in[0], &index = l.in[1], &out = l.out[0];
  if (out.size == 0) return;
  visit_width(dtype_size(out.dtype), [&](auto t) {
    using T = decltype(t);
    visit_index(index.dtype, [&](auto i) {
      using Index = decltype(i);
      launch(take_along<T, Index>, blocks_for(out.size, block_threads), block_threads, 0, l.stream,
             pointer<const T>(x), pointer<const Index>(index), pointer<T>(out), out.size,
             entries_of(index, x), x.dims[x.rank - 1], reporter(l, 1));
    });
  });
}

void put_along_last_kernel(const Launch& l) {
  const View &index = l.in[1], &out = l.out[0];
  if (out.size == 0) return check_index(l, out.dims[out.rank - 1]);
  visit_floating(out.dtype, [&](auto t) {
    using T = decltype(t);
    visit_index(index.dtype, [&](auto i) {
      using Index = decltype(i);
      launch(put_along<T, Index>, blocks_for(out.size, block_threads), block_threads, 0, l.stream,
             pointer<const T>(l.in[0]), pointer<const Index>(index), pointer<T>(out), out.size,
             entries_of(index, out), out.dims[out.rank - 1], reporter(l, 1));
    });
  });
}

}  // namespace edfcore::cuda
