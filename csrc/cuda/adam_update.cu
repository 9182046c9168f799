// Registers per thread: at most 48 in float32, 64 in float64.
#include "ops/adam_update.h"

#include <cmath>

#include "ops/proximal.h"
#include "update.h"

namespace altmin::cuda {

namespace {

template <typename T>
struct Factors {
  T beta1, beta2, rest1, rest2, root2, epsilon;  // root2 = 1 / sqrt(1 - beta2^t)
  T gradient, keep, step, threshold;
};

template <typename T>
__device__ Factors<T> factors_of(const AdamScalars& adam, const UpdateScalars& s) {
  const double t = adam.step + 1;
  return {static_cast<T>(adam.beta1),
          static_cast<T>(adam.beta2),
          static_cast<T>(1 - adam.beta1),
          static_cast<T>(1 - adam.beta2),
          static_cast<T>(1 / sqrt(1 - pow(adam.beta2, t))),
          static_cast<T>(adam.epsilon),
          static_cast<T>(s.gradient_factor),
          static_cast<T>(1 - s.learning_rate * s.decay),
          static_cast<T>(s.learning_rate / (1 - pow(adam.beta1, t))),
          static_cast<T>(s.learning_rate * s.threshold)};
}

template <typename T>
__global__ void __launch_bounds__(update_threads)
    adam_update_kernel(Chunks<AdamTensor<T>> chunks, Workspace workspace, AdamScalars* adam) {
  const auto prepare = [adam](const AdamTensor<T>& tensor) {
    __shared__ Factors<T> factors;  // two powers in double: once per block is enough
    if (threadIdx.x == 0) factors = factors_of<T>(*adam, *tensor.scalars);
    __syncthreads();
    return factors;
  };
  const auto body = [](const AdamTensor<T>& tensor, const Factors<T>& f, int64_t place, auto width) {
    auto weight = load<width>(tensor.weight + place);
    auto first_moment = load<width>(tensor.first_moment + place);
    auto second_moment = load<width>(tensor.second_moment + place);
    const auto gradient = load<width>(tensor.gradient + place);
    bool taken = true;
    for (int i = 0; i < width; ++i) {
      const T g = f.gradient * gradient[i];
      const T m = f.beta1 * first_moment[i] + f.rest1 * g;
      const T v = f.beta2 * second_moment[i] + f.rest2 * g * g;
      T w = f.keep * weight[i] - f.step * m / (sqrt(v) * f.root2 + f.epsilon);
      if (f.threshold > T(0)) w = soft_threshold(w, f.threshold);
      const bool finite = is_finite(w) && is_finite(v);
      weight[i] = finite ? w : weight[i];
      first_moment[i] = finite ? m : first_moment[i];
      second_moment[i] = finite ? v : second_moment[i];
      taken = taken && finite;
    }
    store(tensor.weight + place, weight);
    store(tensor.first_moment + place, first_moment);
    store(tensor.second_moment + place, second_moment);
    return taken;
  };
  update_chunks<pack_width<T>>(chunks, workspace, prepare, body, [adam] { adam->step += 1; });
}

}  // namespace

template <typename T>
void adam_update(const AdamUpdate<T>& o, Stream stream) {
  const bool packs = std::all_of(o.tensors.begin(), o.tensors.end(), [](const AdamTensor<T>& tensor) {
    return aligned(tensor.weight, tensor.gradient, tensor.first_moment, tensor.second_moment);
  });
  launch_update(o, o.tensors, packs, stream, adam_update_kernel<T>, o.adam);
}

ALTMIN_INSTANTIATE_CUDA(adam_update, void, AdamUpdate)

}  // namespace altmin::cuda
