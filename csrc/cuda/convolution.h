// What the kernels of a stage that convolves have in common: who computes what, and what a number is.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "launch.h"
#include "ops/convolution.h"

namespace altmin::cuda {

inline constexpr int convolution_threads = 256;

// Blocks for `images` of height x width pixels of 16 lanes: a column of the grid for each image, as far as a grid
// goes. The 16 threads of half a warp read what lies side by side, and share the weight.
inline dim3 image_grid(int64_t images, int64_t height, int64_t width) {
  const int64_t blocks = ceil_divide(height * width * lanes, convolution_threads);
  return {static_cast<unsigned>(std::min<int64_t>(blocks, 65535)),
          static_cast<unsigned>(std::min<int64_t>(images, 65535))};
}

// Calls body(image, y, x, place, lane) for all numbers of the images, shared out among the threads; `place` is that
// within the image.
template <typename Body>
__device__ __forceinline__ void for_pixels(int64_t images, int64_t height, int64_t width, const Body& body) {
  const int columns = static_cast<int>(width), numbers = static_cast<int>(height * width * lanes);
  const int stride = static_cast<int>(gridDim.x) * convolution_threads;
  for (int64_t image = blockIdx.y; image < images; image += gridDim.y) {
    for (int place = static_cast<int>(blockIdx.x * convolution_threads + threadIdx.x); place < numbers;
         place += stride) {
      const int pixel = place / static_cast<int>(lanes);
      body(image, pixel / columns, pixel % columns, place, place % static_cast<int>(lanes));
    }
  }
}

// The taps of a row or column of the kernel that lie in the image.
struct Taps {
  int begin, end;

  __device__ __forceinline__ Taps(int64_t start, int64_t kernel, int64_t extent)
      : begin(start < 0 ? static_cast<int>(-start) : 0),
        end(static_cast<int>(kernel < extent - start ? kernel : extent - start)) {}
};

// The convolution's output at (y, x) of a group's images, before it is pooled and without the bias.
template <typename T>
__device__ __forceinline__ T convolved(const ConvolutionShape& s, const T* images, const T* filter, int y,
                                       int x, int lane) {
  const int64_t top = y - s.padding_height, left = x - s.padding_width;
  const Taps rows(top, s.kernel_height, s.height), columns(left, s.kernel_width, s.width);
  const int width = static_cast<int>(s.width), kernel_width = static_cast<int>(s.kernel_width);
  images += (top * s.width + left) * lanes + lane;
  T sum = 0;
  for (int64_t input = 0; input < s.inputs; ++input) {
    for (int i = rows.begin; i < rows.end; ++i)
      for (int j = columns.begin; j < columns.end; ++j)
        sum += filter[i * kernel_width + j] * images[(i * width + j) * static_cast<int>(lanes)];
    images += s.height * s.width * lanes;
    filter += s.kernel_height * s.kernel_width;
  }
  return sum;
}

}  // namespace altmin::cuda
