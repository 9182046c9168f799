// Registers per thread: at most 120 in float32, 128 in float64.
#include "ops/bcd_columns.h"

#include <limits>

#include "ops/proximal.h"
#include "reduction.h"

namespace altmin::cuda {

namespace {

constexpr int warps = 8;
constexpr int tile = warp_size;  // columns of a block of columns, one per lane

// Of the gram matrix, found by a warp.
struct Diagonal {
  double largest, added;
};

template <typename T>
__device__ __forceinline__ Diagonal diagonal_of(const BcdColumns<T>& o, int lane) {
  double largest = 0, trace = 0;
  for (int64_t j = lane; j < o.columns; j += warp_size) {
    const double entry = static_cast<double>(o.gram[j * o.columns + j]);
    largest = fmax(largest, entry);
    trace += entry;
  }
  for (int other = warp_size / 2; other > 0; other /= 2)
    largest = fmax(largest, __shfl_xor_sync(whole_warp, largest, other));
  trace = warp_sum(trace);
  const double damping = o.scalars->damping;
  return {largest, damping > 0 ? damping * (trace / static_cast<double>(o.columns)) : 0.0};
}

// Rows and columns of the gram matrix from these on, zero beyond its edges.
template <typename T>
__device__ __forceinline__ void load_tile(T (&to)[tile][tile + 1], const BcdColumns<T>& o, int64_t row,
                                          int64_t column) {
  const int lane = threadIdx.x;
  const int64_t n = o.columns;
  for (int r = threadIdx.y; r < tile; r += warps)
    to[r][lane] = row + r < n && column + lane < n ? o.gram[(row + r) * n + column + lane] : T(0);
}

// Where a column's weight goes that misses its equation by `residual`, with the threshold that applies to it.
template <typename T>
__device__ __forceinline__ T minimiser(T before, T residual, T diagonal, T threshold, bool nonnegative) {
  T after = before + residual / diagonal;
  if (threshold > T(0)) after = soft_threshold(after, threshold / diagonal);
  if (nonnegative) after = after > T(0) ? after : after * T(0);
  return after;
}

// The rows of W are independent problems with the same matrix: a block takes 8 `held` of them through all columns,
// every warp `held`, and no block waits for another. For a block of columns J
//
//   1. residual = b_J - W a_J, a product of tiles over the columns as they stand now; from zero, over those before J;
//   2. one column after the other within J, whose part of the gram matrix is in shared memory: each step takes its
//      change off the residuals of the columns behind it.
template <int held, typename T>
__global__ void __launch_bounds__(warps* warp_size, 2) bcd_columns_kernel(BcdColumns<T> o) {
  __shared__ T gram[tile][tile + 1];
  __shared__ T weights[warps * held][tile + 1];
  __shared__ Diagonal diagonal_shared;
  const int lane = threadIdx.x, warp = threadIdx.y;
  const int64_t n = o.columns, first_row = blockIdx.x * int64_t{warps * held};
  const auto row_of = [&](int i) { return first_row + i * warps + warp; };

  if (warp == 0) {
    const Diagonal found = diagonal_of(o, lane);
    if (lane == 0) diagonal_shared = found;
  }
  __syncthreads();
  const T added = static_cast<T>(diagonal_shared.added);
  const T smallest = (static_cast<T>(diagonal_shared.largest) + added) * std::numeric_limits<T>::epsilon();
  const T threshold = static_cast<T>(o.scalars->threshold);

  for (int sweep = 0; sweep < o.sweeps; ++sweep) {
    const bool starts = o.from_zero && sweep == 0;
    for (int64_t first = 0; first < n; first += tile) {
      const int64_t column = first + lane;
      const bool inside = column < n;
      T residual[held], own[held];
      for (int i = 0; i < held; ++i) {
        const bool any = inside && row_of(i) < o.rows;
        own[i] = any && !starts ? o.weight[row_of(i) * n + column] : T(0);
        residual[i] = any ? o.cross[row_of(i) * n + column] - added * own[i] : T(0);
      }
      for (int64_t k = 0; k < (starts ? first : n); k += tile) {
        load_tile(gram, o, k, first);
        for (int i = 0; i < held; ++i)
          weights[i * warps + warp][lane] =
              k + lane < n && row_of(i) < o.rows ? o.weight[row_of(i) * n + k + lane] : T(0);
        __syncthreads();
        T product[held] = {};  // added up apart, so that many columns lose no digits
        for (int r = 0; r < tile; ++r)
          for (int i = 0; i < held; ++i) product[i] += weights[i * warps + warp][r] * gram[r][lane];
        for (int i = 0; i < held; ++i) residual[i] -= product[i];
        __syncthreads();
      }

      load_tile(gram, o, first, first);
      __syncthreads();
      for (int j = 0; j < tile; ++j) {
        const T diagonal = gram[j][j] + added;
        if (first + j >= n) break;
        if (diagonal <= smallest) continue;  // a NaN goes on, to be seen
        const bool free = o.has_bias && first + j == n - 1;
        for (int i = 0; i < held; ++i) {
          const T before = __shfl_sync(whole_warp, own[i], j);
          const T after = minimiser(before, __shfl_sync(whole_warp, residual[i], j), diagonal,
                                    free ? T(0) : threshold, o.nonnegative && !free);
          residual[i] -= (after - before) * gram[j][lane];
          if (lane == j) own[i] = after;
        }
      }
      for (int i = 0; i < held; ++i)
        if (inside && row_of(i) < o.rows) o.weight[row_of(i) * n + column] = own[i];
      __syncthreads();
    }
  }
}

}  // namespace

template <typename T>
void bcd_columns(const BcdColumns<T>& o, Stream stream) {
  if (o.rows * o.columns == 0) return;
  // More rows to a warp read the gram matrix less often, where there are rows enough for every multiprocessor.
  const bool many = o.rows >= int64_t{4} * warps * multiprocessors();
  const auto kernel = many ? bcd_columns_kernel<4, T> : bcd_columns_kernel<1, T>;
  const int64_t rows = warps * (many ? 4 : 1);
  launch(kernel, static_cast<unsigned>(ceil_divide(o.rows, rows)), dim3(warp_size, warps), stream, o);
}

ALTMIN_INSTANTIATE_CUDA(bcd_columns, void, BcdColumns)

}  // namespace altmin::cuda
