// Registers per thread: at most 80 in float32, 80 in float64.
#include "ops/convolution_vjp.h"

#include "convolution.h"

namespace altmin::cuda {

namespace {

// A thread for each number that is pulled back: of all windows in reach it looks where the winner is, and whether the
// kernel takes that here.
template <typename T>
__global__ void __launch_bounds__(convolution_threads, 1) convolution_vjp_kernel(ConvolutionVjp<T> o) {
  const ConvolutionShape& s = o.shape;
  const int pool = static_cast<int>(s.pool), code_width = static_cast<int>(s.code_width());
  const int kernel_height = static_cast<int>(s.kernel_height), kernel_width = static_cast<int>(s.kernel_width);
  const int64_t codes = s.code_height() * s.code_width() * lanes, numbers = s.height * s.width * lanes;
  for_pixels(s.groups * s.inputs, s.height, s.width, [&](int64_t image, int y, int x, int at, int lane) {
    const int64_t group = image / s.inputs;
    // What tap (0, 0) here would be a tap of, in the convolved images.
    const int bottom = y + static_cast<int>(s.padding_height), right = x + static_cast<int>(s.padding_width);
    const int first_row = bottom < kernel_height ? 0 : (bottom - kernel_height + 1) / pool;
    const int first_column = right < kernel_width ? 0 : (right - kernel_width + 1) / pool;
    const int last_row = min(bottom / pool, static_cast<int>(s.code_height()) - 1);
    const int last_column = min(right / pool, code_width - 1);
    T sum = 0;
    for (int64_t output = 0; output < s.outputs; ++output) {
      const T* filter = o.weight + (output * s.inputs + image % s.inputs) * kernel_height * kernel_width;
      const int64_t channel = (group * s.outputs + output) * codes + lane;
      for (int row = first_row; row <= last_row; ++row) {
        for (int column = first_column; column <= last_column; ++column) {
          const int64_t place = channel + (row * code_width + column) * static_cast<int>(lanes);
          const int winner = pool == 1 ? 0 : o.winner[place];
          const int i = bottom - row * pool - winner / pool, j = right - column * pool - winner % pool;
          if (i >= 0 && i < kernel_height && j >= 0 && j < kernel_width)
            sum += filter[i * kernel_width + j] * o.displacement[place];
        }
      }
    }
    o.pulled_back[image * numbers + at] = sum;
  });
}

}  // namespace

template <typename T>
void convolution_vjp(const ConvolutionVjp<T>& o, Stream stream) {
  const ConvolutionShape& s = o.shape;
  const dim3 grid = image_grid(s.groups * s.inputs, s.height, s.width);
  if (grid.x > 0 && grid.y > 0) launch(convolution_vjp_kernel<T>, grid, convolution_threads, stream, o);
}

ALTMIN_INSTANTIATE_CUDA(convolution_vjp, void, ConvolutionVjp)

}  // namespace altmin::cuda
