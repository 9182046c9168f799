// Registers per thread: at most 48 in float32, 64 in float64.
#include "ops/adam_update.h"

#include "ops/proximal.h"
#include "update.h"

namespace altmin::cuda {

namespace {

// Two powers in double: once per block is enough.
template <typename T>
__device__ __forceinline__ const AdamFactors<T>& factors_of_block(const AdamScalars& adam,
                                                                  const UpdateScalars& scalars) {
  __shared__ double corrections[2];
  __shared__ AdamFactors<T> factors;
  if (threadIdx.x < 2)
    corrections[threadIdx.x] = correction_of(adam, threadIdx.x == 0 ? adam.beta1 : adam.beta2);
  __syncthreads();
  if (threadIdx.x == 0) factors = factors_of<T>(adam, corrections[0], corrections[1], scalars);
  __syncthreads();
  return factors;
}

template <typename T>
__global__ void __launch_bounds__(update_threads)
    adam_look_kernel(Chunks<AdamTensor<T>> chunks, Workspace workspace, AdamScalars* adam) {
  const auto prepare = [adam](const AdamTensor<T>& tensor) -> const AdamFactors<T>& {
    return factors_of_block<T>(*adam, *tensor.scalars);
  };
  const auto stays_finite = [](const AdamTensor<T>& tensor, const AdamFactors<T>& f, int64_t place,
                               auto width) {
    const auto gradient = load<width>(tensor.gradient + place);
    bool finite = true;
    for (int i = 0; i < width; ++i) {
      if (std::fabs(gradient[i]) <= f.largest) continue;
      const int64_t at = place + i;
      const AdamElement<T> e =
          moved(f, tensor.weight[at], tensor.first_moment[at], tensor.second_moment[at], gradient[i]);
      finite = finite && is_finite(e.weight) && is_finite(e.second_moment);
    }
    return finite;
  };
  look_at_chunks<pack_width<T>>(chunks, workspace, prepare, stays_finite);
}

template <typename T>
__global__ void __launch_bounds__(update_threads)
    adam_update_kernel(Chunks<AdamTensor<T>> chunks, Workspace workspace, AdamScalars* adam) {
  const auto prepare = [adam](const AdamTensor<T>& tensor) {
    return factors_of_block<T>(*adam, *tensor.scalars);
  };
  const auto stays_finite = [](const AdamTensor<T>& tensor, const AdamFactors<T>& f, int64_t place,
                               auto width) {
    auto weight = load<width>(tensor.weight + place);
    auto first_moment = load<width>(tensor.first_moment + place);
    auto second_moment = load<width>(tensor.second_moment + place);
    const auto gradient = load<width>(tensor.gradient + place);
    bool finite = true;
    for (int i = 0; i < width; ++i) {
      const AdamElement<T> e = moved(f, weight[i], first_moment[i], second_moment[i], gradient[i]);
      const T w = f.threshold > T(0) ? soft_threshold(e.weight, f.threshold) : e.weight;
      finite = finite & is_finite(w) & is_finite(e.second_moment);
      weight[i] = w;
      first_moment[i] = e.first_moment;
      second_moment[i] = e.second_moment;
    }
    store(tensor.weight + place, weight);
    store(tensor.first_moment + place, first_moment);
    store(tensor.second_moment + place, second_moment);
    return finite;
  };
  move_chunks<pack_width<T>>(chunks, workspace, prepare, stays_finite, [adam] { adam->step += 1; });
}

}  // namespace

template <typename T>
void adam_update(const AdamUpdate<T>& o, Stream stream) {
  const bool packs = std::all_of(o.tensors.begin(), o.tensors.end(), [](const AdamTensor<T>& tensor) {
    return aligned(tensor.weight, tensor.gradient, tensor.first_moment, tensor.second_moment);
  });
  launch_update(o, o.tensors, packs, stream, adam_look_kernel<T>, adam_update_kernel<T>, o.adam);
}

ALTMIN_INSTANTIATE_CUDA(adam_update, void, AdamUpdate)

}  // namespace altmin::cuda
