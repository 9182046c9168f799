// Registers per thread: at most 80 in float32, 128 in float64.
#include "ops/memory_update.h"

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

template <typename T>
__global__ void __launch_bounds__(threads) memory_update_kernel(MemoryUpdate<T> o, int64_t tiles) {
  __shared__ T left[depth][tile], right[depth][tile];
  const Place place = place_of(blockIdx.x, tiles);
  const int64_t first_row = place.row * tile, first_column = place.column * tile;
  const int thread = threadIdx.x, row = thread / side, column = thread % side;

  T sums[own][own] = {};
  for (int64_t start = 0; start < o.batch; start += depth) {
    T slice[own][own] = {};  // added up apart, so that many samples lose no digits
    for (int i = thread; i < depth * tile; i += threads) {
      const int64_t sample = start + i / tile, offset = i % tile;
      const bool inside = sample < o.batch;
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

  const T forgetting = static_cast<T>(o.scalars->forgetting);
  T* const matrix = place.of_gram ? o.gram : o.cross;
  const int64_t rows = place.of_gram ? o.n_gram : o.n_out;
  for (int i = 0; i < own; ++i) {
    for (int j = 0; j < own; ++j) {
      const int64_t r = first_row + row + i * side, c = first_column + column + j * side;
      if (r >= rows || c >= o.n_gram || (place.of_gram && r > c)) continue;
      const T past = matrix[r * o.n_gram + c];
      const T value = (past - forgetting * past) + sums[i][j];
      matrix[r * o.n_gram + c] = value;
      if (place.of_gram && r != c) matrix[c * o.n_gram + r] = value;
    }
  }
}

}  // namespace

template <typename T>
void memory_update(const MemoryUpdate<T>& o, Stream stream) {
  const int64_t tiles = ceil_divide(o.n_gram, tile);
  const int64_t blocks = tiles * (tiles + 1) / 2 + ceil_divide(o.n_out, tile) * tiles;
  if (blocks > 0) launch(memory_update_kernel<T>, static_cast<unsigned>(blocks), threads, stream, o, tiles);
}

ALTMIN_INSTANTIATE_CUDA(memory_update, void, MemoryUpdate)

}  // namespace altmin::cuda
