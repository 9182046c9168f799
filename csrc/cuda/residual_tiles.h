// Residuals of a whole batch with their column sums and their sum of squares, in one pass.
//
// A block owns a tile: as many columns as its warps' packs cover, and a range of rows. Its column sums meet those of
// the other row ranges in the workspace, where the last block to finish adds them up in the order of the rows.
#pragma once

#include "ops/platform.h"
#include "pack.h"
#include "reduction.h"

namespace altmin::cuda {

inline constexpr int tile_rows = 8;  // warps of a block, each with a row of its own at a time
inline constexpr int tile_threads = tile_rows * warp_size;

// How a (batch, width) matrix is cut into tiles, and where the blocks of one matrix leave their sums.
struct Tiling {
  int column_tiles, row_tiles;
  int64_t rows;  // of a row tile

  Tiling() = default;
  // For about `blocks` tiles, though no more row tiles than a single block can add up quickly.
  Tiling(int64_t batch, int64_t width, int pack, int64_t blocks) {
    column_tiles = static_cast<int>(std::max<int64_t>(1, ceil_divide(width, warp_size * pack)));
    const int64_t most = std::min<int64_t>(16, std::max<int64_t>(1, ceil_divide(batch, tile_rows)));
    row_tiles = static_cast<int>(std::clamp<int64_t>(blocks / column_tiles, 1, most));
    rows = ceil_divide(std::max<int64_t>(batch, 1), row_tiles);
  }
  ALTMIN_HOST_DEVICE unsigned blocks() const { return static_cast<unsigned>(column_tiles * row_tiles); }
  // Doubles of workspace: column sums of every row tile, and a sum of squares of every block.
  int64_t numbers(int64_t width) const { return row_tiles * width + blocks(); }
};

// Writes residual = element(row, column), adds up its columns into column_sums unless that is null, and has one thread
// call finish(sum of squares as element counts them). `block` counts the blocks of this matrix; `counter` is its own.
//
// element(row, column, square) returns a pack of `pack` residuals and adds to the square.
template <int pack, typename T, typename Element, typename Finish>
__device__ void residual_tile(int64_t batch, int64_t width, const Tiling& tiling, unsigned block, T* residual,
                              T* column_sums, double* numbers, unsigned* counter, const Element& element,
                              const Finish& finish) {
  __shared__ double tile_sums[tile_rows][warp_size * pack + 1];
  const int column_tile = block % tiling.column_tiles, row_tile = block / tiling.column_tiles;
  const int64_t first_column = int64_t{column_tile} * warp_size * pack;
  const int64_t column = first_column + threadIdx.x * pack;
  const int64_t end = min(batch, (row_tile + 1) * tiling.rows);
  double sums[pack] = {}, square = 0;
  if (column < width) {
    for (int64_t row = row_tile * tiling.rows + threadIdx.y; row < end; row += tile_rows) {
      const Pack<T, pack> values = element(row, column, square);
      store(residual + row * width + column, values);
      for (int i = 0; i < pack; ++i) sums[i] += static_cast<double>(values[i]);
    }
  }
  double* const squares = numbers + tiling.row_tiles * width;
  if (column_sums) {
    for (int i = 0; i < pack; ++i) tile_sums[threadIdx.y][threadIdx.x * pack + i] = sums[i];
    __syncthreads();
    for (int j = thread_in_block(); j < warp_size * pack && first_column + j < width; j += tile_threads) {
      double sum = 0;
      for (int row = 0; row < tile_rows; ++row) sum += tile_sums[row][j];
      numbers[row_tile * width + first_column + j] = sum;
    }
  }
  square = block_sum(square);
  if (thread_in_block() == 0) squares[block] = square;
  if (!last_block(counter, tiling.blocks())) return;

  for (int64_t j = thread_in_block(); column_sums && j < width; j += tile_threads) {
    double sum = 0;
    for (int tile = 0; tile < tiling.row_tiles; ++tile) sum += numbers[tile * width + j];
    column_sums[j] = static_cast<T>(sum);
  }
  double total = 0;
  for (unsigned other = thread_in_block(); other < tiling.blocks(); other += tile_threads)
    total += squares[other];
  total = block_sum(total);
  if (thread_in_block() == 0) finish(total);
}

}  // namespace altmin::cuda
