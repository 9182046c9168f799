// How a group of samples goes through time: a block each, a lane of threads for every sample, a row for every unit.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "launch.h"
#include "ops/lanes.h"

namespace altmin::cuda {

// Of a block, at most: a thread of float64 takes twice the registers.
template <typename T>
inline constexpr int elman_threads = 2048 / sizeof(T);

// As many rows as there are units, if a block can have them; a whole number of warps.
template <typename T>
dim3 elman_block(int64_t width) {
  const int64_t rows = std::max<int64_t>(2, ceil_divide(width, 2) * 2);
  return dim3(lanes, static_cast<unsigned>(std::min<int64_t>(rows, elman_threads<T> / lanes)));
}

// Sum over k < count of weight[k * stride] numbers[k * 16].
template <typename T>
__device__ __forceinline__ T lane_product(const T* weight, int64_t stride, const T* numbers, int64_t count) {
  T sum = 0;
  for (int64_t k = 0; k < count; ++k) sum += weight[k * stride] * numbers[k * lanes];
  return sum;
}

}  // namespace altmin::cuda
