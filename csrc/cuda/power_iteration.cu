#include "ops/power_iteration.h"

#include <cmath>

#include "reduction.h"

namespace altmin::cuda {

namespace {

constexpr int warps = 8;

// u = W v into the workspace, one warp per row.
template <typename T>
__global__ void __launch_bounds__(warps* warp_size) forward_kernel(PowerIteration<T> o, Workspace workspace) {
  for (int64_t row = blockIdx.x * int64_t{warps} + threadIdx.y; row < o.rows;
       row += int64_t{gridDim.x} * warps) {
    const T* weight = o.weight + row * o.columns;
    double sum = 0;
    for (int64_t j = threadIdx.x; j < o.columns; j += warp_size)
      sum += static_cast<double>(weight[j]) * static_cast<double>(o.vector[j]);
    sum = warp_sum(sum);
    if (threadIdx.x == 0) workspace.numbers[row] = sum;
  }
}

// t = W^T u, one column per lane, the rows shared out among the warps; the last block divides by the norm.
template <typename T>
__global__ void __launch_bounds__(warps* warp_size) backward_kernel(PowerIteration<T> o, Workspace workspace) {
  __shared__ double sums[warps][warp_size];
  const double* const u = workspace.numbers;
  double* const t = workspace.numbers + o.rows;
  for (int64_t first = blockIdx.x * int64_t{warp_size}; first < o.columns;
       first += int64_t{gridDim.x} * warp_size) {
    const int64_t column = first + threadIdx.x;
    double sum = 0;
    if (column < o.columns)
      for (int64_t row = threadIdx.y; row < o.rows; row += warps)
        sum += u[row] * static_cast<double>(o.weight[row * o.columns + column]);
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < o.columns) {
      double total = 0;
      for (int warp = 0; warp < warps; ++warp) total += sums[warp][threadIdx.x];
      t[column] = total;
    }
    __syncthreads();
  }
  if (!last_block(workspace.counters, gridDim.x)) return;
  __shared__ double norm;
  double square = 0;
  for (int64_t j = thread_in_block(); j < o.columns; j += threads_in_block()) square += t[j] * t[j];
  square = block_sum(square);
  if (thread_in_block() == 0) *o.sigma_squared = norm = sqrt(square);
  __syncthreads();
  if (!(norm > 0) || isinf(norm)) return;
  for (int64_t j = thread_in_block(); j < o.columns; j += threads_in_block())
    o.vector[j] = static_cast<T>(t[j] / norm);
}

}  // namespace

template <typename T>
void power_iteration(const PowerIteration<T>& o, Stream stream) {
  const Workspace workspace = Workspace::of(stream, o.rows + o.columns);
  const dim3 block(warp_size, warps);
  launch(forward_kernel<T>, blocks_for(ceil_divide(o.rows, warps)), block, stream, o, workspace);
  launch(backward_kernel<T>, blocks_for(ceil_divide(o.columns, warp_size)), block, stream, o, workspace);
}

ALTMIN_INSTANTIATE_CUDA(power_iteration, void, PowerIteration)

}  // namespace altmin::cuda
