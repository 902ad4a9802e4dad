// How the candidate of simt_kernel.h does a product: the table of its tilings and splits, and the launches.
#pragma once

#include "simt_kernel.h"

namespace edfcore::simt {

using cuda::aligned;
using cuda::blocks_for;
using cuda::pointer;

// How an (m, k) by (k, n) product is done: by which tiles, and into how many parts the inner dimension is
// split where the tiles are too few for a large device.
enum class MatmulTile { tall, flat, medium, large };

struct MatmulPlan {
  MatmulTile tile;
  std::int64_t splits;
};

constexpr MatmulPlan matmul_plan(std::int64_t m, std::int64_t n, std::int64_t k) {
  struct Row {
    MatmulTile tile;
    std::int64_t max_m, max_n;   // the result's extents that it is for; 0: any
    std::int64_t m, n;           // the tile's extents
    std::int64_t enough;         // tiles without which it is not taken
    std::int64_t blocks, min_k;  // split into at most so many blocks, of at least this part of k
  };
  constexpr Row table[] = {
      {MatmulTile::tall, 0, 16, 128, 16, 0, 264, 128},
      {MatmulTile::flat, 16, 0, 16, 128, 0, 264, 128},
      {MatmulTile::large, 0, 0, 128, 128, 200, 1, 128},
      {MatmulTile::medium, 0, 0, 64, 64, 0, 264, 128},
  };
  for (const Row& row : table) {
    const std::int64_t tiles = ((m + row.m - 1) / row.m) * ((n + row.n - 1) / row.n);
    if ((row.max_m > 0 && m > row.max_m) || (row.max_n > 0 && n > row.max_n) || tiles < row.enough) continue;
    const std::int64_t by_blocks = row.blocks / (tiles < 1 ? 1 : tiles), by_k = k / row.min_k;
    const std::int64_t splits = by_blocks < by_k ? by_blocks : by_k;
    return {row.tile, splits < 2 ? 1 : splits > 16 ? 16 : splits};
  }
  return {MatmulTile::medium, 1};
}

template <int M, int N, int K, int WM, int WN, int TM, int TN>
using Double = Tiling<M, N, K, WM, WN, TM, TN, 3, 1, 1>;

// The tiling for each shape of tile that matmul_plan chooses from.
template <class T, class Body>
void visit_tiling(MatmulTile tile, const Body& body) {
  constexpr bool f64 = sizeof(T) == 8;  //    M    N   K  WM  WN TM TN stages slices blocks
  using Tall =
      std::conditional_t<f64, Double<128, 16, 8, 16, 16, 4, 2>, Tiling<128, 16, 16, 16, 16, 4, 2, 3, 1, 1>>;
  using Flat =
      std::conditional_t<f64, Double<16, 128, 8, 16, 16, 2, 4>, Tiling<16, 128, 16, 16, 16, 2, 4, 3, 1, 1>>;
  using Medium =
      std::conditional_t<f64, Double<64, 64, 8, 16, 32, 4, 4>, Tiling<64, 64, 16, 32, 32, 8, 4, 3, 2, 2>>;
  using Large = std::conditional_t<f64, Medium, Tiling<128, 128, 8, 64, 64, 16, 8, 3, 1, 2>>;
  switch (tile) {
    case MatmulTile::tall:
      return body(Tall{});
    case MatmulTile::flat:
      return body(Flat{});
    case MatmulTile::medium:
      return body(Medium{});
    case MatmulTile::large:
      return body(Large{});
  }
}

template <class Tile, class T>
void launch_tiles(const Launch& l, Problem<T> p, bool trans_a, bool trans_b, std::int64_t splits) {
  p.tiles_m = static_cast<unsigned>((p.m + Tile::M - 1) / Tile::M);
  p.tiles_n = static_cast<unsigned>((p.n + Tile::N - 1) / Tile::N);
  const dim3 grid(p.tiles_m * p.tiles_n, static_cast<unsigned>(splits));
  const auto run = [&](auto kernel) { launch(kernel, grid, Tile::threads, 0, l.stream, p); };
  const bool packs = sizeof(T) == 4 && (p.wide_a || !trans_a) && (p.wide_b || trans_b);
  constexpr bool some = sizeof(T) == 4;  // for float64 one kernel does for all
  if (trans_a && trans_b)
    packs ? run(matmul_tiles<Tile, true, true, some, T>) : run(matmul_tiles<Tile, true, true, false, T>);
  else if (trans_a)
    packs ? run(matmul_tiles<Tile, true, false, some, T>) : run(matmul_tiles<Tile, true, false, false, T>);
  else if (trans_b)
    run(matmul_tiles<Tile, false, true, false, T>);
  else
    packs ? run(matmul_tiles<Tile, false, false, some, T>) : run(matmul_tiles<Tile, false, false, false, T>);
}

// `parts` holds the splits of k, if there are several.
template <class T>
Problem<T> problem(const Launch& l, bool trans_a, const T* bias, T* parts, std::int64_t splits) {
  constexpr int pack = 16 / static_cast<int>(sizeof(T));
  const View &a = l.in[0], &b = l.in[1], &c = l.out[0];
  Problem<T> p{};
  p.m = c.dims[0];
  p.n = c.dims[1];
  p.k = a.dims[trans_a ? 0 : 1];
  p.a = pointer<const T>(a);
  p.b = pointer<const T>(b);
  p.c = splits > 1 ? parts : pointer<T>(c);
  p.bias = splits > 1 ? nullptr : bias;
  p.k_per_split = (p.k + splits - 1) / splits;
  p.k_per_split = (p.k_per_split + 15) / 16 * 16;  // whole tiles, and packs that stay aligned
  p.wide_a = aligned(p.a, 16) && a.dims[1] % pack == 0;
  p.wide_b = aligned(p.b, 16) && b.dims[1] % pack == 0;
  p.wide_c = aligned(p.c, 16) && p.n % pack == 0;
  return p;
}

template <class T>
void sum_parts(const Launch& l, const Problem<T>& p, const T* bias, std::int64_t splits) {
  constexpr int pack = 16 / static_cast<int>(sizeof(T));
  const View& c = l.out[0];
  const bool wide = p.wide_c && aligned(c.data, 16);
  const auto run = [&](auto kernel, std::int64_t per_block) {
    launch(kernel, blocks_for(c.size, per_block), block_threads, 0, l.stream, static_cast<const T*>(p.c),
           bias, pointer<T>(c), c.size, p.n, static_cast<int>(splits));
  };
  wide ? run(sum_splits<T, pack>, block_threads * pack) : run(sum_splits<T, 1>, block_threads);
}

template <class T>
void product(const Launch& l, bool trans_a, bool trans_b, const T* bias) {
  const View& c = l.out[0];
  if (c.size == 0) return;
  const std::int64_t k = l.in[0].dims[trans_a ? 0 : 1];
  const MatmulPlan plan = matmul_plan(c.dims[0], c.dims[1], k);
  // k is split where scratch for the parts was asked for.
  const std::int64_t splits = l.scratch == nullptr ? 1 : plan.splits;
  const Problem<T> p = problem(l, trans_a, bias, static_cast<T*>(l.scratch), splits);
  visit_tiling<T>(plan.tile,
                  [&](auto tile) { launch_tiles<decltype(tile)>(l, p, trans_a, trans_b, splits); });
  if (splits > 1) sum_parts(l, p, bias, splits);
}

}  // namespace edfcore::simt
