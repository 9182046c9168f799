// Registers per thread: at most 56 in float32, 96 in float64.
#include "ops/activation_difference.h"

#include "launch.h"
#include "pack.h"

namespace altmin::cuda {

namespace {

constexpr int threads = 256;

// With no more blocks to a multiprocessor than one asked for, the compiler has registers enough to spill none.
template <int width, typename T, typename Sigma>
__global__ void __launch_bounds__(threads, 1)
    activation_difference_kernel(ActivationDifference<T> o, Sigma sigma) {
  const T unit = static_cast<T>(*o.unit);
  const int64_t step = int64_t{width} * threads * gridDim.x;
  for (int64_t place = width * (int64_t{threads} * blockIdx.x + threadIdx.x); place < o.size; place += step) {
    const auto code = load<width>(o.code + place);
    const auto moved = load<width>(o.moved + place);
    Pack<T, width> point, difference;
    for (int i = 0; i < width; ++i) {
      point[i] = code[i] + unit * moved[i];
      difference[i] = sigma.difference(code[i], -moved[i], unit);
    }
    if (o.point) store(o.point + place, point);
    store(o.difference + place, difference);
  }
}

template <int width, typename T>
void launch_activation_difference(const ActivationDifference<T>& o, Stream stream) {
  dispatch_activation<T>(o.kind, o.parameter, [&](auto sigma) {
    launch(activation_difference_kernel<width, T, decltype(sigma)>,
           blocks_for(ceil_divide(o.size, width * threads)), threads, stream, o, sigma);
  });
}

}  // namespace

template <typename T>
void activation_difference(const ActivationDifference<T>& o, Stream stream) {
  if (o.size == 0) return;
  if (o.size % pack_width<T> == 0 && aligned(o.code, o.moved, o.point, o.difference))
    launch_activation_difference<pack_width<T>>(o, stream);
  else
    launch_activation_difference<1>(o, stream);
}

ALTMIN_INSTANTIATE_CUDA(activation_difference, void, ActivationDifference)

}  // namespace altmin::cuda
