#include "ops/adam_update.h"

#include "ops/proximal.h"
#include "update.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// Both go over the elements [begin, end), and return whether one would not be, or is not, finite. Factors are passed by
// value: behind a reference the compiler must suppose that every store to a weight may change them.

template <typename T>
bool overflows(const AdamTensor<T>& tensor, const AdamFactors<T> f, int64_t begin, int64_t end) {
  if (all_within(tensor.gradient + begin, end - begin, f.largest)) return false;
  bool all_finite = true;
  for (int64_t i = begin; i < end; ++i) {
    const AdamElement<T> e =
        moved(f, tensor.weight[i], tensor.first_moment[i], tensor.second_moment[i], tensor.gradient[i]);
    all_finite = all_finite && is_finite(e.weight) && is_finite(e.second_moment);
  }
  return !all_finite;
}

template <bool Threshold, typename T>
bool move(const AdamTensor<T>& tensor, const AdamFactors<T> f, int64_t begin, int64_t end) {
  T* __restrict weight = tensor.weight;
  T* __restrict first_moment = tensor.first_moment;
  T* __restrict second_moment = tensor.second_moment;
  const T* __restrict gradient = tensor.gradient;
  T sum = 0;  // of zeros, unless one is not finite
#pragma omp simd reduction(+ : sum)
  for (int64_t i = begin; i < end; ++i) {
    const AdamElement<T> e = moved(f, weight[i], first_moment[i], second_moment[i], gradient[i]);
    const T w = Threshold ? soft_threshold(e.weight, f.threshold) : e.weight;
    weight[i] = w;
    first_moment[i] = e.first_moment;
    second_moment[i] = e.second_moment;
    sum += w * 0 + e.second_moment * 0;
  }
  return sum != 0;
}

}  // namespace

template <typename T>
void adam_update(const AdamUpdate<T>& o) {
  if (guard_raised(o)) return;
  AdamScalars& adam = *o.adam;
  const double first = correction_of(adam, adam.beta1), second = correction_of(adam, adam.beta2);
  const auto factors = [&](const AdamTensor<T>& tensor) {
    return factors_of<T>(adam, first, second, *tensor.scalars);
  };
  const bool stopped = finds_not_finite(o, [&](const AdamTensor<T>& tensor, int64_t begin, int64_t end) {
    return overflows(tensor, factors(tensor), begin, end);
  });
  if (stopped) return;
  finds_not_finite(o, [&](const AdamTensor<T>& tensor, int64_t begin, int64_t end) {
    const AdamFactors<T> f = factors(tensor);
    return f.threshold > 0 ? move<true>(tensor, f, begin, end) : move<false>(tensor, f, begin, end);
  });
  adam.step += 1;
}

ALTMIN_INSTANTIATE(adam_update, void, AdamUpdate)

}  // namespace altmin::cpu::ALTMIN_ISA
