// Registers per thread: at most 40 in float32, 56 in float64.
#include "ops/elman_encode.h"

#include "elman.h"
#include "reduction.h"

namespace altmin::cuda {

namespace {

constexpr int product_slices = 16;  // of the sum over time that makes a product, side by side

template <typename T>
__global__ void __launch_bounds__(elman_threads<T>) hidden_kernel(ElmanEncode<T> o) {
  const int lane = threadIdx.x;
  const int64_t d = o.width, n = d * lanes, sample = blockIdx.x * lanes + lane;
  T* hidden = o.hidden + blockIdx.x * o.steps * n + lane;
  for (int64_t t = 0; t < o.steps; ++t, hidden += n) {
    for (int64_t i = threadIdx.y; i < d; i += blockDim.y) {
      T h = 0;
      if (sample < o.batch) {
        T c = (o.input_bias ? o.input_bias[i] : T(0)) + (o.recurrent_bias ? o.recurrent_bias[i] : T(0));
        const T* x = o.x + (sample * o.steps + t) * o.n_in;
        for (int64_t k = 0; k < o.n_in; ++k) c += o.input_weight[i * o.n_in + k] * x[k];
        if (t > 0) c += lane_product(o.recurrent_weight + i * d, 1, hidden - n, d);
        h = hyperbolic_tangent(c);
      }
      hidden[i * lanes] = h;
    }
    __syncthreads();
  }
}

// A block for 16 samples and one output.
template <typename T, typename Phi>
__global__ void __launch_bounds__(lanes* product_slices) product_kernel(ElmanEncode<T> o, Phi phi) {
  __shared__ T sums[product_slices][lanes];
  const int lane = threadIdx.x, slice = threadIdx.y;
  const int64_t group = blockIdx.x / o.n_out, output = blockIdx.x % o.n_out, inputs = o.steps * o.width;
  const T *hidden = o.hidden + group * inputs * lanes + lane, *weight = o.output_weight + output * inputs;
  T sum = 0;
  for (int64_t i = slice; i < inputs; i += product_slices) sum += weight[i] * phi.value(hidden[i * lanes]);
  sums[slice][lane] = sum;
  __syncthreads();
  const int64_t sample = group * lanes + lane;
  if (slice > 0 || sample >= o.batch) return;
  for (int other = 1; other < product_slices; ++other) sum += sums[other][lane];
  o.product[sample * o.n_out + output] = sum;
}

}  // namespace

template <typename T>
void elman_encode(const ElmanEncode<T>& o, Stream stream) {
  const int64_t groups = groups_of(o.batch);
  if (groups * o.steps * o.width > 0)
    launch(hidden_kernel<T>, static_cast<unsigned>(groups), elman_block<T>(o.width), stream, o);
  if (groups * o.n_out > 0)
    dispatch_activation<T>(o.kind, o.parameter, [&](auto phi) {
      launch(product_kernel<T, decltype(phi)>, static_cast<unsigned>(groups * o.n_out),
             dim3(lanes, product_slices), stream, o, phi);
    });
}

ALTMIN_INSTANTIATE_CUDA(elman_encode, void, ElmanEncode)

}  // namespace altmin::cuda
