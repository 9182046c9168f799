#include "ops/convolution_pull_back.h"

#include "convolution.h"

namespace altmin::cuda {

namespace {

// A thread for each number that is pulled back.
template <typename T>
__global__ void __launch_bounds__(convolution_threads) convolution_pull_back_kernel(ConvolutionPullBack<T> o) {
  const ConvolutionShape& s = o.shape;
  const int64_t numbers = s.groups * s.inputs * s.height * s.width * lanes;
  const int64_t stride = int64_t{gridDim.x} * convolution_threads;
  for (int64_t place = blockIdx.x * int64_t{convolution_threads} + threadIdx.x; place < numbers;
       place += stride) {
    const Pixel pixel(place, s.inputs, s.height, s.width);
    T sum = 0;
    for (int64_t output = 0; output < s.outputs; ++output) {
      const T* filter = o.weight + (output * s.inputs + pixel.channel) * s.kernel_height * s.kernel_width;
      for (int64_t i = 0; i < s.kernel_height; ++i) {
        const int64_t y = pixel.y - i + s.padding_height;
        if (y < 0 || y >= s.convolved_height()) continue;
        for (int64_t j = 0; j < s.kernel_width; ++j) {
          const int64_t x = pixel.x - j + s.padding_width;
          if (x < 0 || x >= s.convolved_width()) continue;
          sum += filter[i * s.kernel_width + j] *
                 expanded(s, o.displacement, o.winner, pixel.group, output, y, x, pixel.lane);
        }
      }
    }
    o.pulled_back[place] = sum;
  }
}

}  // namespace

template <typename T>
void convolution_pull_back(const ConvolutionPullBack<T>& o, Stream stream) {
  const ConvolutionShape& s = o.shape;
  const int64_t numbers = s.groups * s.inputs * s.height * s.width * lanes;
  if (numbers > 0)
    launch(convolution_pull_back_kernel<T>, blocks_for(ceil_divide(numbers, convolution_threads)),
           convolution_threads, stream, o);
}

ALTMIN_INSTANTIATE_CUDA(convolution_pull_back, void, ConvolutionPullBack)

}  // namespace altmin::cuda
