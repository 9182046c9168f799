// Registers per thread: at most 32 in float32, 40 in float64.
#include "ops/relu_prox.h"

#include "pack.h"
#include "reduction.h"

namespace altmin::cuda {

namespace {

constexpr int threads = 256;

template <int width, typename T>
__global__ void __launch_bounds__(threads) relu_prox_kernel(ReluProx<T> o, ReluProxMap<T> map) {
  T zero = 0;  // as long as all results are finite
  const int64_t step = int64_t{width} * threads * gridDim.x;
  for (int64_t place = width * (int64_t{threads} * blockIdx.x + threadIdx.x); place < o.size; place += step) {
    const auto activation = load<width>(o.activation + place);
    const auto center = load<width>(o.center + place);
    Pack<T, width> out;
    for (int i = 0; i < width; ++i) {
      out[i] = map(activation[i], center[i]);
      zero += out[i] * T(0);
    }
    store(o.out + place, out);
  }
  if (!(zero == T(0))) raise(o.guard);
}

template <int width, typename T>
void launch_relu_prox(const ReluProx<T>& o, Stream stream) {
  launch(relu_prox_kernel<width, T>, blocks_for(ceil_divide(o.size, width * threads)), threads, stream, o,
         ReluProxMap<T>(o));
}

}  // namespace

template <typename T>
void relu_prox(const ReluProx<T>& o, Stream stream) {
  if (o.size == 0) return;
  if (o.size % pack_width<T> == 0 && aligned(o.activation, o.center, o.out))
    launch_relu_prox<pack_width<T>>(o, stream);
  else
    launch_relu_prox<1>(o, stream);
}

ALTMIN_INSTANTIATE_CUDA(relu_prox, void, ReluProx)

}  // namespace altmin::cuda
