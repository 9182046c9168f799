// Registers per thread: at most 48 in float32, 128 in float64.
#include "ops/activation_vjp.h"

#include "launch.h"
#include "pack.h"

namespace altmin::cuda {

namespace {

constexpr int threads = 256;

// With no more blocks to a multiprocessor than one asked for, the compiler has registers enough to spill none.
template <int width, typename T, typename Sigma>
__global__ void __launch_bounds__(threads, 1) activation_vjp_kernel(ActivationVjp<T> o, Sigma sigma) {
  const int64_t step = int64_t{width} * threads * gridDim.x;
  for (int64_t place = width * (int64_t{threads} * blockIdx.x + threadIdx.x); place < o.size; place += step) {
    const auto code = load<width>(o.code + place);
    const auto gradient = load<width>(o.gradient + place);
    Pack<T, width> out;
    for (int i = 0; i < width; ++i) out[i] = sigma.derivative(code[i]) * gradient[i];
    store(o.out + place, out);
  }
}

template <int width, typename T>
void launch_activation_vjp(const ActivationVjp<T>& o, Stream stream) {
  dispatch_activation<T>(o.kind, o.parameter, [&](auto sigma) {
    launch(activation_vjp_kernel<width, T, decltype(sigma)>, blocks_for(ceil_divide(o.size, width * threads)),
           threads, stream, o, sigma);
  });
}

}  // namespace

template <typename T>
void activation_vjp(const ActivationVjp<T>& o, Stream stream) {
  if (o.size == 0) return;
  if (o.size % pack_width<T> == 0 && aligned(o.code, o.gradient, o.out))
    launch_activation_vjp<pack_width<T>>(o, stream);
  else
    launch_activation_vjp<1>(o, stream);
}

ALTMIN_INSTANTIATE_CUDA(activation_vjp, void, ActivationVjp)

}  // namespace altmin::cuda
