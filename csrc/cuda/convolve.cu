// Registers per thread: at most 96 in float32, 128 in float64.
#include "ops/convolve.h"

#include <limits>

#include "convolution.h"
#include "reduction.h"

namespace altmin::cuda {

namespace {

// A thread for each code: it convolves its window and keeps the largest.
template <typename T, typename Sigma>
__global__ void __launch_bounds__(convolution_threads, 1) convolve_kernel(Convolve<T> o, Sigma sigma) {
  const ConvolutionShape& s = o.shape;
  const int64_t codes = s.code_height() * s.code_width() * lanes, input = s.inputs * s.height * s.width * lanes;
  const int pool = static_cast<int>(s.pool);
  bool finite = true;
  for_pixels(s.groups * s.outputs, s.code_height(), s.code_width(),
             [&](int64_t image, int row, int column, int at, int lane) {
               const int64_t channel = image % s.outputs, place = image * codes + at;
               const T* images = o.input + image / s.outputs * input;
               const T* filter = o.weight + channel * s.taps();
               const T bias = o.bias ? o.bias[channel] : T(0);
               T best = -std::numeric_limits<T>::infinity(), second = best;
               int winner = 0;
               for (int y = 0; y < pool; ++y) {
                 for (int x = 0; x < pool; ++x) {
                   const T next = bias + convolved(s, images, filter, row * pool + y, column * pool + x, lane);
                   const bool wins = next > best || next != next;
                   const T loser = wins ? best : next;
                   second = loser > second ? loser : second;
                   best = wins ? next : best;
                   winner = wins ? y * pool + x : winner;
                 }
               }
               finite = finite && best - best == T(0);
               if (o.code != o.activation) o.code[place] = best;
               if (o.winner) o.winner[place] = static_cast<uint8_t>(winner);
               if (o.gap) o.gap[place] = best - second;
               o.activation[place] = (o.mask ? o.mask[place] : T(1)) * sigma.value(best);
             });
  if (!finite) raise(o.guard);
}

}  // namespace

template <typename T>
void convolve(const Convolve<T>& o, Stream stream) {
  const ConvolutionShape& s = o.shape;
  const dim3 grid = image_grid(s.groups * s.outputs, s.code_height(), s.code_width());
  if (grid.x == 0 || grid.y == 0) return;
  dispatch_activation<T>(o.kind, o.parameter, [&](auto sigma) {
    launch(convolve_kernel<T, decltype(sigma)>, grid, convolution_threads, stream, o, sigma);
  });
}

ALTMIN_INSTANTIATE_CUDA(convolve, void, Convolve)

}  // namespace altmin::cuda
