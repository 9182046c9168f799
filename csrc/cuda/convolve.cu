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
  const int64_t codes = s.groups * s.outputs * s.code_height() * s.code_width() * lanes;
  const int64_t stride = int64_t{gridDim.x} * convolution_threads;
  bool finite = true;
  for (int64_t place = blockIdx.x * int64_t{convolution_threads} + threadIdx.x; place < codes;
       place += stride) {
    const Pixel pixel(place, s.outputs, s.code_height(), s.code_width());
    const T bias = o.bias ? o.bias[pixel.channel] : T(0);
    T best = -std::numeric_limits<T>::infinity(), second = best;
    int winner = 0;
    for (int k = 0; k < s.pool * s.pool; ++k) {
      const T next = bias + convolved(s, o.input, o.weight, pixel.group, pixel.channel,
                                      pixel.y * s.pool + k / s.pool, pixel.x * s.pool + k % s.pool, pixel.lane);
      if (k == 0 || next > best || next != next) {
        second = best;
        best = next;
        winner = k;
      } else {
        second = next > second ? next : second;
      }
    }
    finite = finite && best - best == T(0);
    if (o.code != o.activation) o.code[place] = best;
    if (o.winner) o.winner[place] = static_cast<uint8_t>(winner);
    if (o.gap) o.gap[place] = best - second;
    o.activation[place] = (o.mask ? o.mask[place] : T(1)) * sigma.value(best);
  }
  if (!finite) raise(o.guard);
}

}  // namespace

template <typename T>
void convolve(const Convolve<T>& o, Stream stream) {
  const ConvolutionShape& s = o.shape;
  const int64_t codes = s.groups * s.outputs * s.code_height() * s.code_width() * lanes;
  if (codes == 0) return;
  dispatch_activation<T>(o.kind, o.parameter, [&](auto sigma) {
    launch(convolve_kernel<T, decltype(sigma)>, blocks_for(ceil_divide(codes, convolution_threads)),
           convolution_threads, stream, o, sigma);
  });
}

ALTMIN_INSTANTIATE_CUDA(convolve, void, Convolve)

}  // namespace altmin::cuda
