// What the kernels of a stage that convolves have in common: where its numbers lie, and what one of them is.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "launch.h"
#include "ops/convolution.h"

namespace altmin::cuda {

inline constexpr int convolution_threads = 256;

// One number of a tensor of shape (groups, channels, height, width, 16). The 16 lanes of half a warp read what lies
// side by side, and share the weight.
struct Pixel {
  int64_t group, channel, y, x;
  int lane;

  __device__ __forceinline__ Pixel(int64_t place, int64_t channels, int64_t height, int64_t width) {
    lane = static_cast<int>(place % lanes);
    place /= lanes;
    x = place % width;
    place /= width;
    y = place % height;
    place /= height;
    channel = place % channels;
    group = place / channels;
  }
};

__device__ __forceinline__ int64_t place_of(int64_t image, int64_t y, int64_t x, int64_t height, int64_t width,
                                            int lane) {
  return ((image * height + y) * width + x) * lanes + lane;
}

// The convolution's output at (y, x), before it is pooled and without the bias.
template <typename T>
__device__ __forceinline__ T convolved(const ConvolutionShape& s, const T* input, const T* weight,
                                       int64_t group, int64_t output, int64_t y, int64_t x, int lane) {
  T sum = 0;
  for (int64_t channel = 0; channel < s.inputs; ++channel) {
    const T* filter = weight + (output * s.inputs + channel) * s.kernel_height * s.kernel_width;
    for (int64_t i = 0; i < s.kernel_height; ++i) {
      const int64_t row = y + i - s.padding_height;
      if (row < 0 || row >= s.height) continue;
      for (int64_t j = 0; j < s.kernel_width; ++j) {
        const int64_t column = x + j - s.padding_width;
        if (column < 0 || column >= s.width) continue;
        sum += filter[i * s.kernel_width + j] *
               input[place_of(group * s.inputs + channel, row, column, s.height, s.width, lane)];
      }
    }
  }
  return sum;
}

// The displacement of the code that (y, x) is pooled into if it is the winner there, else zero.
template <typename T>
__device__ __forceinline__ T expanded(const ConvolutionShape& s, const T* displacement, const uint8_t* winner,
                                      int64_t group, int64_t output, int64_t y, int64_t x, int lane) {
  const int64_t row = y / s.pool, column = x / s.pool;
  if (row >= s.code_height() || column >= s.code_width()) return T(0);
  const int64_t place =
      place_of(group * s.outputs + output, row, column, s.code_height(), s.code_width(), lane);
  const bool wins = s.pool == 1 || winner[place] == y % s.pool * s.pool + x % s.pool;
  return wins ? displacement[place] : T(0);
}

}  // namespace altmin::cuda
