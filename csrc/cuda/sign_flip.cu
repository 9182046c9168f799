// Registers per thread: at most 64 in float32, 80 in float64.
#include "ops/sign_flip.h"

#include "pack.h"
#include "reduction.h"

namespace altmin::cuda {

namespace {

constexpr int threads = 256;

// A block is as wide as a row has packs, up to 256, and as high as threads are left.
template <int width, typename T>
__global__ void __launch_bounds__(threads, 1)
    sign_flip_kernel(SignFlip<T> o, int64_t batch, Workspace workspace) {
  __shared__ T factor;  // a quotient of doubles: once per block is enough
  if (thread_in_block() == 0) factor = pull_factor(o);
  __syncthreads();
  double square = 0;
  for (int64_t row = blockIdx.x * int64_t{blockDim.y} + threadIdx.y; row < batch;
       row += int64_t{gridDim.x} * blockDim.y) {
    for (int64_t column = int64_t{width} * threadIdx.x; column < o.width;
         column += int64_t{width} * blockDim.x) {
      const int64_t place = row * o.width + column;
      const auto code = load<width>(o.code + place);
      const auto pulled_back = load<width>(o.pulled_back + place);
      const auto norm = load<width>(o.norm + column);
      const auto mask = load_or<width>(o.mask, place, T(1));
      Pack<T, width> displacement;
      for (int i = 0; i < width; ++i) {
        displacement[i] = flip_displacement(code[i], factor * pulled_back[i], norm[i], mask[i]);
        square += static_cast<double>(displacement[i]) * static_cast<double>(displacement[i]);
      }
      store(o.displacement + place, displacement);
    }
  }
  launch_sum(square, workspace, [&](double sum) {
    conclude(o, sum);  // no block reads the scalars any more
    if (!is_finite_sum(sum)) raise(o.guard);
  });
}

template <int width, typename T>
void launch_sign_flip(const SignFlip<T>& o, Stream stream) {
  unsigned columns = warp_size;
  while (columns < threads && columns * width < o.width) columns *= 2;
  const dim3 block(columns, threads / columns);
  const int64_t batch = o.width > 0 ? o.size / o.width : 0;
  const unsigned blocks = blocks_for(ceil_divide(batch, block.y));
  launch(sign_flip_kernel<width, T>, blocks, block, stream, o, batch, Workspace::of(stream, blocks));
}

}  // namespace

template <typename T>
void sign_flip(const SignFlip<T>& o, Stream stream) {
  if (o.width % pack_width<T> == 0 && aligned(o.code, o.pulled_back, o.norm, o.mask, o.displacement))
    launch_sign_flip<pack_width<T>>(o, stream);
  else
    launch_sign_flip<1>(o, stream);
}

ALTMIN_INSTANTIATE_CUDA(sign_flip, void, SignFlip)

}  // namespace altmin::cuda
