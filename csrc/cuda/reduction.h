// Sums within a warp, a block and a launch, the same on every run.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "launch.h"
#include "ops/guard.h"

namespace altmin::cuda {

inline constexpr int warp_size = 32;
inline constexpr unsigned whole_warp = 0xffffffffu;

__device__ __forceinline__ int thread_in_block() { return threadIdx.x + blockDim.x * threadIdx.y; }
__device__ __forceinline__ int threads_in_block() { return blockDim.x * blockDim.y; }

// Sum over the lanes; all of them get it.
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
  for (int lane = warp_size / 2; lane > 0; lane /= 2) value += __shfl_xor_sync(whole_warp, value, lane);
  return value;
}

// Sum over the threads of the block, whose number is a multiple of the warp's; thread 0 gets it.
__device__ __forceinline__ double block_sum(double value) {
  __shared__ double sums[warp_size];
  const int thread = thread_in_block(), warps = threads_in_block() / warp_size;
  value = warp_sum(value);
  if (thread % warp_size == 0) sums[thread / warp_size] = value;
  __syncthreads();
  if (thread < warp_size) value = warp_sum(thread < warps ? sums[thread] : 0.0);
  __syncthreads();  // before the next call overwrites the sums
  return value;
}

// Whether this block is the last of `blocks` to come here: what all of them wrote before is then visible to it.
// The counter is zero before and after.
__device__ __forceinline__ bool last_block(unsigned* counter, unsigned blocks) {
  __shared__ bool is_last;
  __syncthreads();
  if (thread_in_block() == 0) {
    __threadfence();
    is_last = atomicAdd(counter, 1u) == blocks - 1;
    if (is_last) *counter = 0;
  }
  __syncthreads();
  __threadfence();
  return is_last;
}

// Adds up one number per thread over the launch, in an order that does not depend on who comes first; thread 0 of
// the last block calls finish(sum).
template <typename Finish>
__device__ __forceinline__ void launch_sum(double value, const Workspace& workspace, const Finish& finish) {
  const double of_block = block_sum(value);
  if (thread_in_block() == 0) workspace.numbers[blockIdx.x] = of_block;
  if (!last_block(workspace.counters, gridDim.x)) return;
  double sum = 0;
  for (unsigned block = thread_in_block(); block < gridDim.x; block += threads_in_block())
    sum += workspace.numbers[block];
  sum = block_sum(sum);
  if (thread_in_block() == 0) finish(sum);
}

// What a kernel leaves where a result is not finite. Several threads may come here at once.
__device__ __forceinline__ void raise(double* flag) {
  constexpr unsigned long long one = 0x3ff0000000000000ull;  // 1.0
  if (flag) atomicExch(reinterpret_cast<unsigned long long*>(flag), one);
}

// Also where the number is so large that its square is none.
__device__ __forceinline__ bool has_finite_square(double value) { return is_finite_sum(value * value); }

}  // namespace altmin::cuda
