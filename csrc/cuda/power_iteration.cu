// Registers per thread: at most 48 in float32, 48 in float64.
#include "ops/power_iteration.h"

#include <cmath>

#include "reduction.h"

namespace altmin::cuda {

namespace {

constexpr int warps = 8;
// What a launch takes along in its arguments; more matrices need several.
constexpr int most_matrices = 48;

template <typename T>
struct Matrices {
  PowerIterationMatrix<T> matrix[most_matrices];
  unsigned end[most_matrices];     // of its blocks
  int64_t numbers[most_matrices];  // where its workspace begins: u = W v, and behind it t = W^T u
};

// A block's matrix, and which of that matrix's blocks it is.
template <typename T>
struct Share {
  const PowerIterationMatrix<T>& matrix;
  int index;
  unsigned block, blocks;
  double *u, *t;

  __device__ static Share of_block(const Matrices<T>& all, const Workspace& workspace) {
    int i = 0;
    while (blockIdx.x >= all.end[i]) ++i;
    const unsigned first = i > 0 ? all.end[i - 1] : 0u;
    double* const u = workspace.numbers + all.numbers[i];
    return {all.matrix[i], i, blockIdx.x - first, all.end[i] - first, u, u + all.matrix[i].rows};
  }
};

// u, one warp per row.
template <typename T>
__global__ void __launch_bounds__(warps* warp_size) forward_kernel(Matrices<T> all, Workspace workspace) {
  const auto share = Share<T>::of_block(all, workspace);
  const PowerIterationMatrix<T>& o = share.matrix;
  for (int64_t row = share.block * int64_t{warps} + threadIdx.y; row < o.rows;
       row += int64_t{share.blocks} * warps) {
    const T* weight = o.weight + row * o.columns;
    double sum = 0;
    for (int64_t j = threadIdx.x; j < o.columns; j += warp_size)
      sum += static_cast<double>(weight[j]) * static_cast<double>(o.vector[j]);
    sum = warp_sum(sum);
    if (threadIdx.x == 0) share.u[row] = sum;
  }
}

// t, one column per lane, the rows shared out among the warps; the last block divides by the norm.
template <typename T>
__global__ void __launch_bounds__(warps* warp_size) backward_kernel(Matrices<T> all, Workspace workspace) {
  __shared__ double sums[warps][warp_size];
  const auto share = Share<T>::of_block(all, workspace);
  const PowerIterationMatrix<T>& o = share.matrix;
  for (int64_t first = share.block * int64_t{warp_size}; first < o.columns;
       first += int64_t{share.blocks} * warp_size) {
    const int64_t column = first + threadIdx.x;
    double sum = 0;
    if (column < o.columns)
      for (int64_t row = threadIdx.y; row < o.rows; row += warps)
        sum += share.u[row] * static_cast<double>(o.weight[row * o.columns + column]);
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < o.columns) {
      double total = 0;
      for (int warp = 0; warp < warps; ++warp) total += sums[warp][threadIdx.x];
      share.t[column] = total;
    }
    __syncthreads();
  }
  if (!last_block(workspace.counters + share.index, share.blocks)) return;
  __shared__ double norm;
  double square = 0;
  for (int64_t j = thread_in_block(); j < o.columns; j += threads_in_block()) square += share.t[j] * share.t[j];
  square = block_sum(square);
  if (thread_in_block() == 0) *o.sigma_squared = norm = sqrt(square);
  __syncthreads();
  if (!(norm > 0) || isinf(norm)) return;
  for (int64_t j = thread_in_block(); j < o.columns; j += threads_in_block())
    o.vector[j] = static_cast<T>(share.t[j] / norm);
}

// Launches kernel for matrices [first, first + count), with as many blocks for each as pieces(matrix) says.
template <typename T, typename Pieces>
void launch_all(void (*kernel)(Matrices<T>, Workspace), const PowerIterationMatrix<T>* first, int count,
                Stream stream, const Pieces& pieces) {
  Matrices<T> all = {};
  unsigned blocks = 0;
  int64_t numbers = 0;
  for (int i = 0; i < count; ++i) {
    PowerIterationMatrix<T>& matrix = all.matrix[i] = first[i];
    if (matrix.columns == 0) matrix.rows = 0;  // which may be any
    all.end[i] = blocks += blocks_for(pieces(matrix));
    all.numbers[i] = numbers;
    numbers += matrix.rows + matrix.columns;
  }
  launch(kernel, blocks, dim3(warp_size, warps), stream, all, Workspace::of(stream, numbers));
}

}  // namespace

template <typename T>
void power_iteration(const PowerIteration<T>& o, Stream stream) {
  using Matrix = PowerIterationMatrix<T>;
  const int64_t total = static_cast<int64_t>(o.matrices.size());
  for (int64_t first = 0; first < total; first += most_matrices) {
    const int count = static_cast<int>(std::min<int64_t>(most_matrices, total - first));
    const Matrix* matrices = o.matrices.data() + first;
    launch_all(forward_kernel<T>, matrices, count, stream,
               [](const Matrix& m) { return ceil_divide(m.rows, warps); });
    launch_all(backward_kernel<T>, matrices, count, stream,
               [](const Matrix& m) { return ceil_divide(m.columns, warp_size); });
  }
}

ALTMIN_INSTANTIATE_CUDA(power_iteration, void, PowerIteration)

}  // namespace altmin::cuda
