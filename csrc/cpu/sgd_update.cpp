#include "ops/sgd_update.h"

#include "ops/proximal.h"
#include "update.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// Both go over the elements [begin, end), and return whether one would not be, or is not, finite.

template <typename T>
bool overflows(const SgdTensor<T>& tensor, const SgdFactors<T> f, int64_t begin, int64_t end) {
  if (all_within(tensor.gradient + begin, end - begin, f.largest)) return false;
  bool all_finite = true;
  for (int64_t i = begin; i < end; ++i) {
    const T w = soft_threshold(moved(f, tensor.weight[i], tensor.gradient[i]), f.threshold);
    all_finite = all_finite && is_finite(w);
  }
  return !all_finite;
}

template <bool Threshold, typename T>
bool move(const SgdTensor<T>& tensor, const SgdFactors<T> f, int64_t begin, int64_t end) {
  T* __restrict weight = tensor.weight;
  const T* __restrict gradient = tensor.gradient;
  int not_finite = 0;
#pragma omp simd reduction(| : not_finite)
  for (int64_t i = begin; i < end; ++i) {
    T w = moved(f, weight[i], gradient[i]);
    if (Threshold) w = soft_threshold(w, f.threshold);
    weight[i] = w;
    not_finite |= is_finite(w) ? 0 : 1;
  }
  return not_finite != 0;
}

}  // namespace

template <typename T>
void sgd_update(const SgdUpdate<T>& o) {
  if (guard_raised(o)) return;
  const bool stopped = finds_not_finite(o, [](const SgdTensor<T>& tensor, int64_t begin, int64_t end) {
    return overflows(tensor, factors_of<T>(*tensor.scalars), begin, end);
  });
  if (stopped) return;
  finds_not_finite(o, [](const SgdTensor<T>& tensor, int64_t begin, int64_t end) {
    const SgdFactors<T> f = factors_of<T>(*tensor.scalars);
    return f.threshold != 0 ? move<true>(tensor, f, begin, end) : move<false>(tensor, f, begin, end);
  });
}

ALTMIN_INSTANTIATE(sgd_update, void, SgdUpdate)

}  // namespace altmin::cpu::ALTMIN_ISA
