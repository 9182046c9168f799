// Registers per thread: at most 64 in float32, 80 in float64.
#include "ops/softmax_residual.h"

#include <cmath>

#include "ops/activation.h"
#include "residual_tiles.h"

namespace altmin::cuda {

namespace {

constexpr int warps = 8;

// The larger one, the first of equals.
template <typename T>
__device__ __forceinline__ void warp_maximum(T& value, int64_t& index) {
  for (int lane = warp_size / 2; lane > 0; lane /= 2) {
    const T other = __shfl_xor_sync(whole_warp, value, lane);
    const int64_t other_index = __shfl_xor_sync(whole_warp, static_cast<long long>(index), lane);
    const bool take = other > value || (other == value && other_index < index);
    value = take ? other : value;
    index = take ? other_index : index;
  }
}

// Loss and correct count of the rows that a thread has seen.
struct Score {
  double loss;
  long long correct;

  // A row whose powers add up to `total`; every lane brings the shifted logit of the label, or 0.
  template <typename T>
  __device__ __forceinline__ void add(T of_label, double total, int64_t winner, int64_t label,
                                      int64_t classes) {
    loss -= static_cast<double>(of_label);
    if (threadIdx.x != 0) return;
    const bool inside = label >= 0 && label < classes;
    loss += inside ? log(total) : std::numeric_limits<double>::quiet_NaN();
    correct += winner == label;
  }
};

// One warp per row. Its lanes keep up to `kept` numbers each of the row in registers, and of the column sums.
template <int kept, typename T>
__device__ Score keep_rows(const SoftmaxResidual<T>& o, double (&sums)[kept]) {
  const int lane = threadIdx.x;
  Score score = {0, 0};
  for (int64_t row = blockIdx.x * int64_t{warps} + threadIdx.y; row < o.batch;
       row += int64_t{gridDim.x} * warps) {
    const T* logits = o.logits + row * o.classes;
    const int64_t label = o.labels[row];
    T z[kept];
    T largest = -std::numeric_limits<T>::infinity();
    int64_t winner = o.classes;
#pragma unroll
    for (int k = 0; k < kept; ++k) {
      const int64_t j = lane + int64_t{warp_size} * k;
      if (j >= o.classes) continue;
      z[k] = logits[j] + (o.bias ? o.bias[j] : T(0));
      winner = z[k] > largest ? j : winner;
      largest = z[k] > largest ? z[k] : largest;
    }
    warp_maximum(largest, winner);
    T sum = 0, of_label = 0;
#pragma unroll
    for (int k = 0; k < kept; ++k) {
      const int64_t j = lane + int64_t{warp_size} * k;
      if (j >= o.classes) continue;
      const T shifted = z[k] - largest;
      of_label += j == label ? shifted : T(0);
      z[k] = exponential(shifted);
      sum += z[k];
    }
    const double total = warp_sum(static_cast<double>(sum));
    const T inverse = static_cast<T>(1 / total);
#pragma unroll
    for (int k = 0; k < kept; ++k) {
      const int64_t j = lane + int64_t{warp_size} * k;
      if (j >= o.classes) continue;
      const T residual = z[k] * inverse - (j == label ? T(1) : T(0));
      o.residual[row * o.classes + j] = residual;
      sums[k] += static_cast<double>(residual);
    }
    score.add(of_label, total, winner, label, o.classes);
  }
  return score;
}

// The same for any number of classes, reading the row again instead of keeping it.
template <typename T>
__device__ Score stream_rows(const SoftmaxResidual<T>& o) {
  const int lane = threadIdx.x;
  Score score = {0, 0};
  for (int64_t row = blockIdx.x * int64_t{warps} + threadIdx.y; row < o.batch;
       row += int64_t{gridDim.x} * warps) {
    const T* logits = o.logits + row * o.classes;
    T* residual = o.residual + row * o.classes;  // may be `logits`
    const int64_t label = o.labels[row];
    T largest = -std::numeric_limits<T>::infinity();
    int64_t winner = o.classes;
    for (int64_t j = lane; j < o.classes; j += warp_size) {
      const T z = logits[j] + (o.bias ? o.bias[j] : T(0));
      winner = z > largest ? j : winner;
      largest = z > largest ? z : largest;
    }
    warp_maximum(largest, winner);
    double sum = 0;
    T of_label = 0;
    for (int64_t j = lane; j < o.classes; j += warp_size) {
      const T shifted = logits[j] + (o.bias ? o.bias[j] : T(0)) - largest;
      const T power = exponential(shifted);
      of_label += j == label ? shifted : T(0);
      sum += static_cast<double>(power);
      residual[j] = power;
    }
    const double total = warp_sum(sum);
    const T inverse = static_cast<T>(1 / total);
    for (int64_t j = lane; j < o.classes; j += warp_size)
      residual[j] = residual[j] * inverse - (j == label ? T(1) : T(0));
    score.add(of_label, total, winner, label, o.classes);
  }
  return score;
}

// The last block adds up what all of them found; `numbers` holds their losses, counts and column sums in turn.
template <typename T>
__device__ void finish(const SoftmaxResidual<T>& o, const Workspace& workspace, const Score& score) {
  double* const losses = workspace.numbers;
  double* const counts = losses + gridDim.x;
  const double* const column_sums = counts + gridDim.x;
  const double loss = block_sum(score.loss), correct = block_sum(static_cast<double>(score.correct));
  if (thread_in_block() == 0) {
    losses[blockIdx.x] = loss;
    counts[blockIdx.x] = correct;
  }
  if (!last_block(workspace.counters, gridDim.x)) return;
  double total = 0, count = 0;
  for (unsigned block = thread_in_block(); block < gridDim.x; block += threads_in_block()) {
    total += losses[block];
    count += counts[block];
  }
  total = block_sum(total);
  count = block_sum(count);
  if (thread_in_block() == 0) {
    const double mean = total / static_cast<double>(o.batch);
    if (!is_finite_sum(fabs(mean))) raise(o.guard);
    *o.loss = static_cast<T>(mean);
    *o.correct = static_cast<int64_t>(count);
  }
  for (int64_t j = thread_in_block(); o.bias_gradient && j < o.classes; j += threads_in_block()) {
    double sum = 0;
    for (unsigned block = 0; block < gridDim.x; ++block) sum += column_sums[block * o.classes + j];
    o.bias_gradient[j] = static_cast<T>(sum);
  }
}

template <int kept, typename T>
__global__ void __launch_bounds__(warps* warp_size)
    softmax_residual_kernel(SoftmaxResidual<T> o, Workspace workspace) {
  __shared__ double block_sums[warps][warp_size * kept];
  double sums[kept] = {};
  const Score score = keep_rows<kept>(o, sums);
  if (o.bias_gradient) {
    double* const column_sums = workspace.numbers + 2 * gridDim.x + blockIdx.x * o.classes;
    for (int k = 0; k < kept; ++k) block_sums[threadIdx.y][threadIdx.x + warp_size * k] = sums[k];
    __syncthreads();
    for (int64_t j = thread_in_block(); j < o.classes; j += threads_in_block()) {
      double sum = 0;
      for (int warp = 0; warp < warps; ++warp) sum += block_sums[warp][j];
      column_sums[j] = sum;
    }
  }
  finish(o, workspace, score);
}

template <typename T>
__global__ void __launch_bounds__(warps* warp_size)
    softmax_many_classes_kernel(SoftmaxResidual<T> o, Workspace workspace) {
  const Score score = stream_rows(o);
  finish(o, workspace, score);
}

// residual stays as it is: only its columns are added up.
template <typename T>
__global__ void __launch_bounds__(tile_threads)
    column_sums_kernel(SoftmaxResidual<T> o, Tiling tiling, Workspace workspace) {
  residual_tile<1>(
      o.batch, o.classes, tiling, blockIdx.x, o.residual, o.bias_gradient, workspace.numbers,
      workspace.counters,
      [&](int64_t row, int64_t column, double&) { return load<1>(o.residual + row * o.classes + column); },
      [](double) {});
}

template <typename T>
void launch_many_classes(SoftmaxResidual<T> o, unsigned blocks, Stream stream) {
  T* const bias_gradient = o.bias_gradient;
  o.bias_gradient = nullptr;
  launch(softmax_many_classes_kernel<T>, blocks, dim3(warp_size, warps), stream, o,
         Workspace::of(stream, 2 * blocks));
  if (!bias_gradient) return;
  o.bias_gradient = bias_gradient;
  const Tiling tiling(o.batch, o.classes, 1, 2 * multiprocessors());
  launch(column_sums_kernel<T>, tiling.blocks(), dim3(warp_size, tile_rows), stream, o, tiling,
         Workspace::of(stream, tiling.numbers(o.classes)));
}

}  // namespace

// A label out of range makes the loss a NaN, which raises the guard: to say which one would take a synchronisation.
template <typename T>
int64_t softmax_residual(const SoftmaxResidual<T>& o, Stream stream) {
  // Few blocks: what they leave in the workspace is added up by one.
  const unsigned blocks = std::min(64u, blocks_for(ceil_divide(o.batch, warps)));
  constexpr int most_per_lane = 8;  // what a thread holds in registers
  if (o.classes > most_per_lane * warp_size) {
    launch_many_classes(o, blocks_for(ceil_divide(o.batch, warps)), stream);
    return -1;
  }
  const auto kernel =
      o.classes <= warp_size ? softmax_residual_kernel<1, T> : softmax_residual_kernel<most_per_lane, T>;
  launch(kernel, blocks, dim3(warp_size, warps), stream, o, Workspace::of(stream, blocks * (2 + o.classes)));
  return -1;
}

ALTMIN_INSTANTIATE_CUDA(softmax_residual, int64_t, SoftmaxResidual)

}  // namespace altmin::cuda
