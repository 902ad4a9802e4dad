// CPU kernels of matmul and affine. Every element of the result is one chain of multiply-adds in the order of
// k, whatever its tile, so it does not depend on tiling or threads.
#include "ops/matmul_cpu.h"
#include "ops/matmul_few_cpu.h"
#include "ops/matmul_narrow_cpu.h"
#include "ops/matmul_sum_cpu.h"

namespace edfcore::EDF_ISA {

namespace {

template <class T>
void add_bias(const Product<T>& p, const T* bias, std::int64_t i0, std::int64_t i1, std::int64_t j0,
              std::int64_t j1) {
  for (std::int64_t i = i0; i < i1; ++i) {
    T* row = p.c + i * p.columns;
    EDF_INDEPENDENT
    for (std::int64_t j = j0; j < j1; ++j) row[j] += bias[j];
  }
}

// Rows of the product of a column and a row, side by side in memory; of the row, `width` elements. Several
// rows are read before the first of them is written: a load that follows a store of some lanes nearby waits
// until that is in the cache.
template <class T, int Rows, int Vectors, bool Whole>
EDF_HD inline void outer_rows(const T* a, const Vector<T> (&right)[Vectors], const T* plus, T scale, T* c,
                              std::int64_t columns, std::int64_t width) {
  Vector<T> made[Rows][Vectors];
  EDF_UNROLL
  for (int r = 0; r < Rows; ++r) {
    const Vector<T> left = broadcast(a[r]);
    EDF_UNROLL
    for (int v = 0; v < Vectors; ++v) made[r][v] = multiply_add(left, right[v], Vector<T>{});
  }
  if (plus) {
    EDF_UNROLL
    for (int r = 0; r < Rows; ++r) EDF_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      const T* from = plus + r * columns + v * lanes<T>;
      made[r][v] = (Whole ? load(from) : load_first(from, width)) + scale * made[r][v];
    }
  }
  EDF_UNROLL
  for (int r = 0; r < Rows; ++r) EDF_UNROLL
  for (int v = 0; v < Vectors; ++v) {
    T* to = c + r * columns + v * lanes<T>;
    Whole ? store(to, made[r][v]) : store_first(to, made[r][v], width);
  }
}

// Both are contiguous, transposed or not, and rows are written from end to end.
template <class T, int Rows, int Vectors, bool Whole>
void outer_columns(const Product<T>& p, std::int64_t i0, std::int64_t i1, std::int64_t j) {
  const std::int64_t columns = p.columns, width = columns - j;
  const T *const a = p.a, *const plus = p.plus ? p.plus + j : nullptr, scale = p.scale;
  T* const c = p.c + j;
  Vector<T> right[Vectors];
  EDF_UNROLL
  for (int v = 0; v < Vectors; ++v)
    right[v] = Whole ? load(p.b + j + v * lanes<T>) : load_first(p.b + j, width);
  std::int64_t i = i0;
  for (; i + Rows <= i1; i += Rows)
    outer_rows<T, Rows, Vectors, Whole>(a + i, right, plus ? plus + i * columns : nullptr, scale,
                                        c + i * columns, columns, width);
  for (; i < i1; ++i)
    outer_rows<T, 1, Vectors, Whole>(a + i, right, plus ? plus + i * columns : nullptr, scale,
                                     c + i * columns, columns, width);
}

template <class T>
void outer_product(const Product<T>& p, std::int64_t i0, std::int64_t i1, std::int64_t j0, std::int64_t j1) {
  std::int64_t j = j0;
  if (j1 - j >= 8 * lanes<T>) {
    const std::int64_t most = (j1 - j) / (8 * lanes<T>)*8 * lanes<T>;
    for (std::int64_t i = i0; i < i1; ++i)  // as they lie in memory
      for (j = j0; j < j0 + most; j += 8 * lanes<T>) outer_columns<T, 1, 8, true>(p, i, i + 1, j);
  }
  for (; j1 - j >= lanes<T>; j += lanes<T>) outer_columns<T, 4, 1, true>(p, i0, i1, j);
  if (j < j1) outer_columns<T, 8, 1, false>(p, i0, i1, j);
}

constexpr std::int64_t tail_elements = 4096;
constexpr std::int64_t reread_bytes = 1 << 17;

// What comes after a product, whose elements begin at number `first` of the kernel's output.
template <class T>
struct After {
  const T* bias;  // may be null
  const Tail* tail;
  std::int32_t* left;  // by block of rows: groups of columns that are not complete yet
  std::int64_t first;

  void rows_done(const Product<T>& p, std::int64_t i0, std::int64_t i1) const {
    tail->run(tail->context, first + i0 * p.columns, first + i1 * p.columns);
  }
};

// The strips by the panels at hand. Chunks are blocks of strips by groups of panels.
template <class T>
void multiply_part(const Product<T>& p, const After<T>& after) {
  const std::int64_t panels = p.panel1 - p.panel0, strips = p.strip1 - p.strip0,
                     tile_work = p.depth * panel_width<T> * tile_rows + 1;
  const bool one = panels * strips * tile_work <= chunk_work;  // chunk: then there is nothing to divide
  std::int64_t group =
      one ? panels : smaller(panels, ceil_div(chunk_work, smaller(block_strips, strips) * tile_work));
  if (p.whole == 1 || p.shallow())
    group = panels;  // rows are written from end to end
  else if (p.wide()) {
    if (p.streams() && !one) group = ceil_div(panels, num_threads());
    group = smaller(panels, ceil_div(group, most_side_by_side) * most_side_by_side);
  }
  const std::int64_t block =
      one || p.wide() ? strips : block_strips * ceil_div(chunk_work, block_strips * group * tile_work);
  const std::int64_t groups = one ? 1 : ceil_div(panels, group), blocks = one ? 1 : ceil_div(strips, block);
  const bool counts = after.tail && groups > 1;
  if (counts)
    for (std::int64_t i = 0; i < blocks; ++i) after.left[i] = static_cast<std::int32_t>(groups);
  // What follows finds whole rows in the first-level cache, if the right operand is small enough to be read
  // anew for a few of them at a time.
  const bool few_at_a_time = after.tail && !counts && !p.wide() &&
                             p.depth * p.columns * static_cast<std::int64_t>(sizeof(T)) <= reread_bytes;
  const std::int64_t part = few_at_a_time && p.rows * p.columns > tail_elements
                                ? smaller(block, ceil_div(tail_elements, tile_rows * p.columns))
                                : block;
  parallel_ranges(groups * blocks, 1, [&](std::int64_t chunk, std::int64_t) {
    // Threads take neighbouring chunks: those of the panels that they have copied themselves, each of which
    // all strips at hand meet before the next one, or of the strips.
    const bool by_panels = p.packs_all_right();
    const std::int64_t row = groups == 1 ? chunk : by_panels ? chunk % blocks : chunk / groups;
    const std::int64_t number = groups == 1 ? 0 : by_panels ? chunk / blocks : chunk % groups;
    const std::int64_t p0 = p.panel0 + number * group, p1 = smaller(p0 + group, p.panel1);
    const std::int64_t begin = p.strip0 + row * block, end = smaller(begin + block, p.strip1);
    for (std::int64_t s0 = begin; s0 < end; s0 += part) {
      const std::int64_t s1 = smaller(s0 + part, end);
      const std::int64_t i0 = s0 * tile_rows, i1 = smaller(s1 * tile_rows, p.rows);
      const std::int64_t j0 = p0 * panel_width<T>, j1 = smaller(p1 * panel_width<T>, p.columns);
      if (p.whole == 1)
        outer_product(p, i0, i1, j0, j1);
      else if (p.narrow())
        multiply_narrow(p, i0, i1);
      else if (p.wide())
        multiply_wide(p, p0, p1);
      else
        multiply_block(p, s0, s1, p0, p1);
      if (after.bias) add_bias(p, after.bias, i0, i1, j0, j1);
      // Whoever completes whole rows goes on with them.
      if (after.tail && (!counts || __atomic_sub_fetch(after.left + row, 1, __ATOMIC_ACQ_REL) == 0))
        after.rows_done(p, i0, i1);
    }
  });
}

template <class T>
void multiply(const Product<T>& p, const After<T>& after) {
  if (p.rows == 0 || p.columns == 0) return;
  // What the product is added to comes last, so c cannot hold parts of the product before.
  const std::int64_t most = p.whole > 0 ? p.depth_at_once() : 1;
  const std::int64_t panels = p.panels(), strips = p.strips();
  const std::int64_t panels_at_once = p.panels_at_once(), strips_at_once = p.strips_at_once();
  const bool copies = p.whole > 1;
  for (std::int64_t k = 0; k == 0 || k < p.whole; k += most) {
    Product<T> part = p.part(k, most);
    After<T> then = k + most < p.whole ? After<T>{} : after;
    const Tail* const tail = then.tail;
    for (part.panel0 = 0; part.panel0 < panels; part.panel0 = part.panel1) {
      part.panel1 = smaller(part.panel0 + panels_at_once, panels);
      then.tail = part.panel1 == panels ? tail : nullptr;  // it is for whole rows, once
      if (copies) pack_panels(part);
      for (part.strip0 = 0; part.strip0 < strips; part.strip0 = part.strip1) {
        part.strip1 = smaller(part.strip0 + strips_at_once, strips);
        if (copies && (part.panel0 == 0 || strips > strips_at_once)) pack_strips(part);
        multiply_part(part, then);
      }
    }
  }
}

// Product number `i` of a batch in which an operand is the same for all, or one matrix for each.
template <class T>
Product<T> product_of_batch(Product<T> p, bool shared_a, bool shared_b, std::int64_t i) {
  if (!shared_a) p.a += i * p.rows * p.whole;
  if (!shared_b) p.b += i * p.whole * p.columns;
  p.c += i * p.rows * p.columns;
  if (p.plus) p.plus += i * p.rows * p.columns;
  return p;
}

template <class T>
void launch_product(const Launch& launch, const View* in, bool trans_a, bool trans_b, const T* bias,
                    const T* plus, T scale = 1) {
  const View &a = in[0], &b = in[1], &c = launch.out[0];
  if (c.size == 0) return;
  Product<T> p{};
  p.rows = c.dims[c.rank - 2];
  p.columns = c.dims[c.rank - 1];
  p.depth = p.whole = a.dims[a.rank - (trans_a ? 2 : 1)];
  p.a = pointer<const T>(a);
  p.b = pointer<const T>(b);
  p.trans_a = trans_a;
  p.trans_b = trans_b;
  p.c = pointer<T>(c);
  p.plus = plus;
  p.scale = scale;
  std::int64_t batch = c.size / (p.rows * p.columns);
  if (b.rank == 2 && !trans_a) {  // the rows of the batch are those of one matrix
    p.rows *= batch;
    batch = 1;
  }
  // Scratch: counters, copies of b, copies of a.
  const std::int64_t counters = matmul_counters(p.rows) / static_cast<std::int64_t>(sizeof(T));
  const std::int64_t copied = p.packs_all_right()             ? p.panels_at_once()
                              : p.packs_right(p.panels() - 1) ? 1
                                                              : 0;  // panels
  const std::int64_t right = copied * panel_width<T> * p.depth_at_once();
  const std::int64_t room =
      counters + right + (p.packs_left() ? p.strips_at_once() * tile_rows * p.depth_at_once() : 0);
  After<T> after{bias, launch.tail, nullptr, 0};
  const auto take_room = [&](Product<T>& own, After<T>& its, std::int64_t number) {
    T* const begin = static_cast<T*>(launch.scratch) + number * room;
    its.left = reinterpret_cast<std::int32_t*>(begin);
    own.right = begin + counters;
    own.left = own.right + right;
  };
  take_room(p, after, 0);
  if (batch == 1) return multiply(p, after);
  const std::int64_t each_work = p.rows * p.columns * p.whole + 1;
  const std::int64_t chunk = each_work > chunk_work                ? batch  // then each is split by itself
                             : batch * each_work < 64 * chunk_work ? ceil_div(chunk_work, each_work)
                                                                   : ceil_div(batch, 64);
  const auto multiply_range = [&](std::int64_t begin, std::int64_t end) {
    Product<T> own = p;
    After<T> its = after;
    take_room(own, its, begin / chunk);
    for (std::int64_t i = begin; i < end; ++i) {
      its.first = i * p.rows * p.columns;
      multiply(product_of_batch(own, a.rank == 2, b.rank == 2, i), its);
    }
  };
  if (chunk >= batch) return multiply_range(0, batch);
  parallel_ranges(batch, chunk, multiply_range);
}

}  // namespace

void matmul_kernel(const Launch& launch) {
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    launch_product<T>(launch, launch.in, launch.attrs->trans_a, launch.attrs->trans_b, nullptr, nullptr);
  });
}

// The first input plus `scale` times the product of the next two.
static void add_product(const Launch& launch, double scale) {
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    launch_product<T>(launch, launch.in + 1, launch.attrs->trans_a, launch.attrs->trans_b, nullptr,
                      pointer<const T>(launch.in[0]), static_cast<T>(scale));
  });
}

void matmul_sum_kernel(const Launch& launch) {
  const View &first = launch.in[1], &c = launch.out[0];
  const bool trans_a = launch.attrs->trans_a, trans_b = launch.attrs->trans_b;
  if (launch.n_in == 3) return add_product(launch, 1);
  if (c.size == 0) return;
  visit_floating(c.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* plus = pointer<const T>(launch.in[0]);
    Product<T> each{};
    each.rows = c.dims[0];
    each.columns = c.dims[1];
    each.depth = each.whole = first.dims[trans_a ? 0 : 1];
    each.trans_a = trans_a;
    each.trans_b = trans_b;
    each.c = pointer<T>(c);
    each.plus = plus;
    add_up(Sum<T>{each, launch.in + 1, (launch.n_in - 1) / 2});
  });
}

// After bad data no parameter moves.
void matmul_sgd_kernel(const Launch& launch) {
  if (launch.status->code == Status::ok) add_product(launch, -launch.attrs->scalar);
}

void affine_kernel(const Launch& launch) {
  visit_floating(launch.out[0].dtype, [&](auto zero) {
    using T = decltype(zero);
    launch_product<T>(launch, launch.in, false, false, pointer<const T>(launch.in[2]), nullptr);
  });
}

}  // namespace edfcore::EDF_ISA
