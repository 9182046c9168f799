// Registers per thread: at most 80 in float32, 128 in float64.
#include "ops/memory_update.h"

#include <algorithm>

#include "reduction.h"

namespace altmin::cuda {

namespace {

constexpr int tile = 64,
              depth = 16;  // a block's part of the matrix, and samples of which it holds a slice at a time
constexpr int side = 16, own = tile / side;  // a thread's part is own x own
constexpr int threads = side * side;

// a~ of one sample: the activation with a one behind it.
template <typename T>
__device__ __forceinline__ T augmented(const MemoryUpdate<T>& o, int64_t sample, int64_t column) {
  if (column >= o.n_gram) return T(0);
  return column < o.n_in ? o.activation[sample * o.n_in + column] : T(1);
}

template <typename T>
__device__ __forceinline__ T coded(const MemoryUpdate<T>& o, int64_t sample, int64_t column) {
  return column < o.n_out ? o.code[sample * o.n_out + column] : T(0);
}

// Tiles of the gram's upper triangle, row by row, then those of the cross matrix.
struct Place {
  bool of_gram;
  int64_t row, column;  // of the tile
};

__device__ __forceinline__ Place place_of(int64_t block, int64_t tiles) {
  const int64_t triangle = tiles * (tiles + 1) / 2;
  if (block >= triangle) return {false, (block - triangle) / tiles, (block - triangle) % tiles};
  int64_t row = 0;
  while (block >= tiles - row) block -= tiles - row++;
  return {true, row, row + block};
}

// The blocks of a column of the grid share the samples of a tile. Each leaves its sums in the workspace, and the last
// one adds them up, in the order of the samples.
template <typename T>
__global__ void __launch_bounds__(threads)
    memory_update_kernel(MemoryUpdate<T> o, int64_t tiles, int64_t share, Workspace workspace) {
  __shared__ T left[depth][tile + 1], right[depth][tile];
  static_assert(side <= depth);
  const Place place = place_of(blockIdx.x, tiles);
  const int64_t first_row = place.row * tile, first_column = place.column * tile;
  const int thread = threadIdx.x, row = thread / side, column = thread % side;
  const int64_t begin = blockIdx.y * share, end = o.batch < begin + share ? o.batch : begin + share;

  T sums[own][own] = {};
  for (int64_t start = begin; start < end; start += depth) {
    T slice[own][own] = {};  // added up apart, so that many samples lose no digits
    for (int i = thread; i < depth * tile; i += threads) {
      const int64_t sample = start + i / tile, offset = i % tile;
      const bool inside = sample < end;
      left[i / tile][offset] = !inside         ? T(0)
                               : place.of_gram ? augmented(o, sample, first_row + offset)
                                               : coded(o, sample, first_row + offset);
      right[i / tile][offset] = inside ? augmented(o, sample, first_column + offset) : T(0);
    }
    __syncthreads();
    for (int k = 0; k < depth; ++k) {
      T a[own], b[own];
      for (int i = 0; i < own; ++i) {
        a[i] = left[k][row + i * side];
        b[i] = right[k][column + i * side];
      }
      for (int i = 0; i < own; ++i)
        for (int j = 0; j < own; ++j) slice[i][j] += a[i] * b[j];
    }
    for (int i = 0; i < own; ++i)
      for (int j = 0; j < own; ++j) sums[i][j] += slice[i][j];
    __syncthreads();
  }

  if (gridDim.y > 1) {
    // A thread reads what threads at its own place have written.
    double* const partial = workspace.numbers + int64_t{blockIdx.x} * gridDim.y * tile * tile + thread;
    for (int i = 0; i < own; ++i)
      for (int j = 0; j < own; ++j)
        partial[(int64_t{blockIdx.y} * own * own + i * own + j) * threads] = static_cast<double>(sums[i][j]);
    if (!last_block(workspace.counters + blockIdx.x, gridDim.y)) return;
    for (int i = 0; i < own; ++i) {
      for (int j = 0; j < own; ++j) {
        double sum = 0;
        for (int64_t block = 0; block < gridDim.y; ++block)
          sum += partial[(block * own * own + i * own + j) * threads];
        sums[i][j] = static_cast<T>(sum);
      }
    }
  }

  const T forgetting = static_cast<T>(o.scalars->forgetting), sign = o.subtract ? T(-1) : T(1);
  T* const matrix = place.of_gram ? o.gram : o.cross;
  const T* const given = place.of_gram ? o.gram_before : o.cross_before;
  const T* const before = given == nullptr ? matrix : given;
  const int64_t rows = place.of_gram ? o.n_gram : o.n_out;
  for (int i = 0; i < own; ++i) {
    for (int j = 0; j < own; ++j) {
      const int64_t r = first_row + row + i * side, c = first_column + column + j * side;
      if (r >= rows || c >= o.n_gram || (place.of_gram && r > c)) continue;
      const T past = before[r * o.n_gram + c];
      const T value = (past - forgetting * past) + sign * sums[i][j];
      matrix[r * o.n_gram + c] = value;
      left[row][column + j * side] = value;
    }
    if (!place.of_gram || o.upper) continue;
    // The image of these rows, in which neighbours are threads of other rows.
    __syncthreads();
    for (int k = thread; k < side * tile; k += threads) {
      const int64_t r = first_row + i * side + k % side, c = first_column + k / side;
      if (r < c && c < o.n_gram) matrix[c * o.n_gram + r] = left[k % side][k / side];
    }
    __syncthreads();
  }
}

// Blocks that share the samples of a tile: enough that all tiles together keep every multiprocessor busy, but each
// with samples enough to be worth the sums that the last one adds up.
int64_t blocks_of_a_tile(int64_t batch, int64_t tiles) {
  constexpr int64_t fewest_samples = 16 * depth, most_blocks = 64;
  const int64_t wanted = std::min(most_blocks, ceil_divide(4 * multiprocessors(), tiles));
  return std::max<int64_t>(1, std::min(wanted, batch / fewest_samples));
}

}  // namespace

template <typename T>
void memory_update(const MemoryUpdate<T>& o, Stream stream) {
  const int64_t tiles = ceil_divide(o.n_gram, tile);
  const int64_t all = tiles * (tiles + 1) / 2 + ceil_divide(o.n_out, tile) * tiles;
  if (all == 0) return;
  const int64_t blocks = blocks_of_a_tile(o.batch, all);
  const int64_t share = ceil_divide(ceil_divide(o.batch, blocks), depth) * depth;
  const dim3 grid(static_cast<unsigned>(all), static_cast<unsigned>(blocks));
  launch(memory_update_kernel<T>, grid, threads, stream, o, tiles, share,
         Workspace::of(stream, blocks > 1 ? all * blocks * tile * tile : 0));
}

ALTMIN_INSTANTIATE_CUDA(memory_update, void, MemoryUpdate)

}  // namespace altmin::cuda
