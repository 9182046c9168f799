// Registers per thread: at most 56 in float32, 72 in float64.
#include "ops/activate.h"

#include "pack.h"
#include "reduction.h"

namespace altmin::cuda {

namespace {

constexpr int threads = 256;

// A block is as wide as a row has packs, up to 256, and as high as threads are left. With no more blocks to a
// multiprocessor than one asked for, the compiler has registers enough to spill none.
template <int width, typename T, typename Sigma>
__global__ void __launch_bounds__(threads, 1) activate_kernel(Activate<T> o, Sigma sigma) {
  bool finite = true;
  for (int64_t row = blockIdx.x * int64_t{blockDim.y} + threadIdx.y; row < o.batch;
       row += int64_t{gridDim.x} * blockDim.y) {
    for (int64_t column = int64_t{width} * threadIdx.x; column < o.width;
         column += int64_t{width} * blockDim.x) {
      const int64_t place = row * o.width + column;
      auto code = load<width>(o.code + place);
      const auto bias = load_or<width>(o.bias, column, T(0));
      const auto mask = load_or<width>(o.mask, place, T(1));
      Pack<T, width> activation;
      for (int i = 0; i < width; ++i) {
        if (o.bias) code[i] += bias[i];
        finite = finite && has_finite_square(static_cast<double>(code[i]));
        activation[i] = mask[i] * sigma.value(code[i]);
      }
      if (o.bias && o.code != o.activation) store(o.code + place, code);
      store(o.activation + place, activation);
    }
  }
  if (!finite) raise(o.guard);
}

template <int width, typename T>
void launch_activate(const Activate<T>& o, Stream stream) {
  unsigned columns = warp_size;
  while (columns < threads && columns * width < o.width) columns *= 2;
  const dim3 block(columns, threads / columns);
  dispatch_activation<T>(o.kind, o.parameter, [&](auto sigma) {
    launch(activate_kernel<width, T, decltype(sigma)>, blocks_for(ceil_divide(o.batch, block.y)), block, stream,
           o, sigma);
  });
}

}  // namespace

template <typename T>
void activate(const Activate<T>& o, Stream stream) {
  if (o.batch * o.width == 0) return;
  if (o.width % pack_width<T> == 0 && aligned(o.code, o.bias, o.mask, o.activation))
    launch_activate<pack_width<T>>(o, stream);
  else
    launch_activate<1>(o, stream);
}

ALTMIN_INSTANTIATE_CUDA(activate, void, Activate)

}  // namespace altmin::cuda
