#include "ops/sgd_update.h"

#include "update.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// Elements [begin, end); returns how many were refused.
template <typename T>
int update_range(const SgdTensor<T>& tensor, const T keep, const T step, const T threshold, int64_t begin,
                 int64_t end) {
  T* __restrict weight = tensor.weight;
  const T* __restrict gradient = tensor.gradient;
  int refused = 0;
#pragma omp simd reduction(+ : refused)
  for (int64_t i = begin; i < end; ++i) {
    const T w = soft_threshold(keep * weight[i] - step * gradient[i], threshold);
    const bool finite = is_finite(w);
    weight[i] = select(finite, w, weight[i]);
    refused += finite ? 0 : 1;
  }
  return refused;
}

}  // namespace

template <typename T>
void sgd_update(const SgdUpdate<T>& o) {
  if (guard_raised(o)) return;
  for_each_element(o, [](const SgdTensor<T>& tensor, int64_t begin, int64_t end) {
    const UpdateScalars& s = *tensor.scalars;
    return update_range(tensor, static_cast<T>(1 - s.learning_rate * s.decay),
                        static_cast<T>(s.learning_rate * s.gradient_factor),
                        static_cast<T>(s.learning_rate * s.threshold), begin, end);
  });
}

ALTMIN_INSTANTIATE(sgd_update, void, SgdUpdate)

}  // namespace altmin::cpu::ALTMIN_ISA
