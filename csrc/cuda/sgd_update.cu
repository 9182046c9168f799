// Registers per thread: at most 32 in float32, 40 in float64.
#include "ops/sgd_update.h"

#include "ops/proximal.h"
#include "update.h"

namespace altmin::cuda {

namespace {

template <typename T>
struct FactorsOf {
  __device__ SgdFactors<T> operator()(const SgdTensor<T>& tensor) const {
    return factors_of<T>(*tensor.scalars);
  }
};

template <typename T>
__global__ void __launch_bounds__(update_threads)
    sgd_look_kernel(Chunks<SgdTensor<T>> chunks, Workspace workspace) {
  const auto stays_finite = [](const SgdTensor<T>& tensor, const SgdFactors<T>& f, int64_t place, auto width) {
    const auto gradient = load<width>(tensor.gradient + place);
    bool finite = true;
    for (int i = 0; i < width; ++i) {
      if (std::fabs(gradient[i]) <= f.largest) continue;
      const T w = moved(f, tensor.weight[place + i], gradient[i]);
      finite = finite && is_finite(soft_threshold(w, f.threshold));
    }
    return finite;
  };
  look_at_chunks<pack_width<T>>(chunks, workspace, FactorsOf<T>(), stays_finite);
}

template <typename T>
__global__ void __launch_bounds__(update_threads)
    sgd_update_kernel(Chunks<SgdTensor<T>> chunks, Workspace workspace) {
  const auto stays_finite = [](const SgdTensor<T>& tensor, const SgdFactors<T>& f, int64_t place, auto width) {
    auto weight = load<width>(tensor.weight + place);
    const auto gradient = load<width>(tensor.gradient + place);
    bool finite = true;
    for (int i = 0; i < width; ++i) {
      weight[i] = moved(f, weight[i], gradient[i]);
      if (f.threshold != T(0)) weight[i] = soft_threshold(weight[i], f.threshold);
      finite = finite && is_finite(weight[i]);
    }
    store(tensor.weight + place, weight);
    return finite;
  };
  move_chunks<pack_width<T>>(chunks, workspace, FactorsOf<T>(), stays_finite, [] {});
}

}  // namespace

template <typename T>
void sgd_update(const SgdUpdate<T>& o, Stream stream) {
  const bool packs = std::all_of(o.tensors.begin(), o.tensors.end(), [](const SgdTensor<T>& tensor) {
    return aligned(tensor.weight, tensor.gradient);
  });
  launch_update(o, o.tensors, packs, stream, sgd_look_kernel<T>, sgd_update_kernel<T>);
}

ALTMIN_INSTANTIATE_CUDA(sgd_update, void, SgdUpdate)

}  // namespace altmin::cuda
