// Registers per thread: at most 32 in float32, 40 in float64.
#include "ops/sgd_update.h"

#include "ops/proximal.h"
#include "update.h"

namespace altmin::cuda {

namespace {

template <typename T>
struct Factors {
  T keep, step, threshold;
};

template <typename T>
__global__ void __launch_bounds__(update_threads)
    sgd_update_kernel(Chunks<SgdTensor<T>> chunks, Workspace workspace) {
  const auto prepare = [](const SgdTensor<T>& tensor) {
    const UpdateScalars& s = *tensor.scalars;
    return Factors<T>{static_cast<T>(1 - s.learning_rate * s.decay),
                      static_cast<T>(s.learning_rate * s.gradient_factor),
                      static_cast<T>(s.learning_rate * s.threshold)};
  };
  const auto body = [](const SgdTensor<T>& tensor, const Factors<T>& f, int64_t place, auto width) {
    auto weight = load<width>(tensor.weight + place);
    const auto gradient = load<width>(tensor.gradient + place);
    bool taken = true;
    for (int i = 0; i < width; ++i) {
      T w = f.keep * weight[i] - f.step * gradient[i];
      if (f.threshold > T(0)) w = soft_threshold(w, f.threshold);
      const bool finite = is_finite(w);
      weight[i] = finite ? w : weight[i];
      taken = taken && finite;
    }
    store(tensor.weight + place, weight);
    return taken;
  };
  update_chunks<pack_width<T>>(chunks, workspace, prepare, body, [] {});
}

}  // namespace

template <typename T>
void sgd_update(const SgdUpdate<T>& o, Stream stream) {
  const bool packs = std::all_of(o.tensors.begin(), o.tensors.end(), [](const SgdTensor<T>& tensor) {
    return aligned(tensor.weight, tensor.gradient);
  });
  launch_update(o, o.tensors, packs, stream, sgd_update_kernel<T>);
}

ALTMIN_INSTANTIATE_CUDA(sgd_update, void, SgdUpdate)

}  // namespace altmin::cuda
