// Registers per thread: at most 64 in float32, 96 in float64.
#include "ops/memory_solve.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "reduction.h"

namespace altmin::cuda {

namespace {

constexpr int tile = 32,
              depth = 32;  // a block's part of S, and columns of U and X of which it holds a slice at a time
constexpr int side = 16, own = tile / side;  // a thread's part is own x own
constexpr int threads = side * side;
constexpr int warps = threads / warp_size;

// u_i . x_j for a tile of S with i <= j. The blocks of a column of the grid share the sum; each leaves its part.
template <typename T>
__global__ void __launch_bounds__(threads)
    overlap_kernel(MemorySolve<T> o, int64_t tiles, int64_t share, double* parts) {
  __shared__ T left[depth][tile + 1], right[depth][tile + 1];
  int64_t place = blockIdx.x, row_tile = 0;
  while (place >= tiles - row_tile) place -= tiles - row_tile++;
  const int64_t first_row = row_tile * tile, first_column = (row_tile + place) * tile;
  const int thread = threadIdx.x, row = thread / side, column = thread % side;
  const int64_t begin = blockIdx.y * share, end = o.n < begin + share ? o.n : begin + share;

  double sums[own][own] = {};
  for (int64_t start = begin; start < end; start += depth) {
    for (int i = thread; i < depth * tile; i += threads) {
      const int64_t sample = i / depth, k = start + i % depth;
      const bool inside = k < end;
      left[i % depth][sample] =
          inside && first_row + sample < o.batch ? o.product[(first_row + sample) * o.n + k] : T(0);
      right[i % depth][sample] =
          inside && first_column + sample < o.batch ? o.inputs[(first_column + sample) * o.n + k] : T(0);
    }
    __syncthreads();
    T slice[own][own] = {};
    for (int k = 0; k < depth; ++k)
      for (int i = 0; i < own; ++i)
        for (int j = 0; j < own; ++j) slice[i][j] += left[k][row + i * side] * right[k][column + j * side];
    for (int i = 0; i < own; ++i)
      for (int j = 0; j < own; ++j) sums[i][j] += static_cast<double>(slice[i][j]);
    __syncthreads();
  }
  for (int i = 0; i < own; ++i) {
    for (int j = 0; j < own; ++j) {
      const int64_t r = first_row + row + i * side, c = first_column + column + j * side;
      if (r <= c && c < o.batch) parts[(int64_t{blockIdx.y} * o.batch + r) * o.batch + c] = sums[i][j];
    }
  }
}

// C's transposed, in place of S's upper triangle, and the inverse of its diagonal: by one block, since S is small.
template <typename T>
__global__ void __launch_bounds__(threads)
    factor_kernel(MemorySolve<T> o, const double* parts, int64_t count, double* c) {
  const int64_t size = o.batch;
  for (int64_t place = threadIdx.x; place < size * size; place += threads) {
    const int64_t row = place / size, column = place % size;
    if (row > column) continue;
    double sum = 0;
    for (int64_t part = 0; part < count; ++part) sum += parts[part * size * size + place];
    c[place] = (row == column ? 1.0 : 0.0) + (o.removes ? -sum : sum);
  }
  __syncthreads();
  double smallest = 1;
  for (int64_t k = 0; k < size; ++k) {
    double* const row = c + k * size;
    const double pivot = row[k];
    if (!(pivot > 0 && pivot <= static_cast<double>(std::numeric_limits<T>::max()))) {
      smallest = std::numeric_limits<double>::quiet_NaN();
      break;
    }
    smallest = k == 0 ? pivot : fmin(smallest, pivot);
    __syncthreads();  // before it is overwritten
    const double inverse = 1 / sqrt(pivot);
    for (int64_t j = k + threadIdx.x; j < size; j += threads) row[j] = j == k ? inverse : row[j] * inverse;
    __syncthreads();
    for (int64_t i = k + 1 + threadIdx.x / warp_size; i < size; i += warps)
      for (int64_t j = i + threadIdx.x % warp_size; j < size; j += warp_size)
        c[i * size + j] -= row[i] * row[j];
    __syncthreads();
  }
  if (threadIdx.x == 0) *o.smallest_pivot = smallest;
}

// K and Z, a column per lane: every warp sums up what the solved rows take off one of the next rows, and then the first
// warp solves for these.
template <typename T>
__global__ void __launch_bounds__(threads) substitute_kernel(MemorySolve<T> o, const double* c) {
  __shared__ T rest[warps][warp_size];
  const int lane = threadIdx.x, warp = threadIdx.y;
  const int64_t size = o.batch, n = o.n, column = blockIdx.x * int64_t{warp_size} + lane;
  const bool inside = column < n;
  const auto at = [&](int64_t row, int64_t k) { return static_cast<T>(c[row * size + k]); };

  if (!(*o.smallest_pivot > 0)) {
    for (int64_t row = warp; inside && row < size; row += warps)
      o.factor[row * n + column] = o.solution[row * n + column] = std::numeric_limits<T>::quiet_NaN();
    return;
  }
  for (int64_t first = 0; first < size; first += warps) {
    const int64_t row = first + warp, rows = size - first < warps ? size - first : warps;
    if (inside && row < size) {
      T sum = o.product[row * n + column];
      for (int64_t k = 0; k < first; ++k) sum -= at(k, row) * o.factor[k * n + column];
      rest[warp][lane] = sum;
    }
    __syncthreads();
    if (inside && warp == 0) {
      for (int i = 0; i < rows; ++i) {
        const T solved = rest[i][lane] * at(first + i, first + i);
        o.factor[(first + i) * n + column] = solved;
        for (int j = i + 1; j < rows; ++j) rest[j][lane] -= at(first + i, first + j) * solved;
      }
    }
    __syncthreads();
  }
  for (int64_t first = (size - 1) / warps * warps; first >= 0; first -= warps) {
    const int64_t row = first + warp, rows = size - first < warps ? size - first : warps;
    if (inside && row < size) {
      T sum = o.factor[row * n + column];
      for (int64_t k = first + warps; k < size; ++k) sum -= at(row, k) * o.solution[k * n + column];
      rest[warp][lane] = sum;
    }
    __syncthreads();
    if (inside && warp == 0) {
      for (int64_t i = rows - 1; i >= 0; --i) {
        const T solved = rest[i][lane] * at(first + i, first + i);
        o.solution[(first + i) * n + column] = solved;
        for (int64_t j = 0; j < i; ++j) rest[j][lane] -= at(first + j, first + i) * solved;
      }
    }
    __syncthreads();
  }
}

// Blocks that share the sums of a tile: enough that all tiles together keep every multiprocessor busy, but each with
// columns enough to be worth the sums that one block adds up.
int64_t blocks_of_a_tile(int64_t n, int64_t tiles) {
  constexpr int64_t fewest_columns = 4 * depth, most_blocks = 16;
  const int64_t wanted = std::min(most_blocks, ceil_divide(2 * multiprocessors(), tiles));
  return std::max<int64_t>(1, std::min(wanted, n / fewest_columns));
}

}  // namespace

template <typename T>
void memory_solve(const MemorySolve<T>& o, Stream stream) {
  if (o.batch == 0 || o.n == 0) {
    MemorySolve<T> none = o;
    none.batch = 0;
    launch(factor_kernel<T>, 1, threads, stream, none, static_cast<const double*>(nullptr), int64_t{0},
           static_cast<double*>(nullptr));
    return;
  }
  const int64_t tiles = ceil_divide(o.batch, tile), pairs = tiles * (tiles + 1) / 2;
  const int64_t blocks = blocks_of_a_tile(o.n, pairs);
  const int64_t share = ceil_divide(ceil_divide(o.n, blocks), depth) * depth;
  double* const c = Workspace::of(stream, (blocks + 1) * o.batch * o.batch).numbers;
  double* const parts = c + o.batch * o.batch;
  const dim3 grid(static_cast<unsigned>(pairs), static_cast<unsigned>(blocks));
  launch(overlap_kernel<T>, grid, threads, stream, o, tiles, share, parts);
  launch(factor_kernel<T>, 1, threads, stream, o, static_cast<const double*>(parts), blocks, c);
  launch(substitute_kernel<T>, static_cast<unsigned>(ceil_divide(o.n, warp_size)), dim3(warp_size, warps),
         stream, o, static_cast<const double*>(c));
}

ALTMIN_INSTANTIATE_CUDA(memory_solve, void, MemorySolve)

}  // namespace altmin::cuda
