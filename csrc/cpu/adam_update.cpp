#include "ops/adam_update.h"

#include <cmath>

#include "update.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// Passed by value: behind a reference the compiler must suppose that every store to a weight may change them.
template <typename T>
struct AdamFactors {
  T beta1, beta2, rest1, rest2, root2, epsilon;  // root2 = 1 / sqrt(1 - beta2^t)
  T gradient, keep, step, threshold;
};

// Elements [begin, end); returns how many were refused.
template <bool Threshold, typename T>
int update_range(const AdamTensor<T>& tensor, const AdamFactors<T> f, int64_t begin, int64_t end) {
  T* __restrict weight = tensor.weight;
  T* __restrict first_moment = tensor.first_moment;
  T* __restrict second_moment = tensor.second_moment;
  const T* __restrict gradient = tensor.gradient;
  int refused = 0;
#pragma omp simd reduction(+ : refused)
  for (int64_t i = begin; i < end; ++i) {
    const T g = f.gradient * gradient[i];
    const T m = f.beta1 * first_moment[i] + f.rest1 * g;
    const T v = f.beta2 * second_moment[i] + f.rest2 * g * g;
    T w = f.keep * weight[i] - f.step * m / (std::sqrt(v) * f.root2 + f.epsilon);
    if (Threshold) w = soft_threshold(w, f.threshold);
    const bool finite = is_finite(w) & is_finite(v);  // not &&: a branch would not vectorise
    weight[i] = select(finite, w, weight[i]);
    first_moment[i] = select(finite, m, first_moment[i]);
    second_moment[i] = select(finite, v, second_moment[i]);
    refused += finite ? 0 : 1;
  }
  return refused;
}

}  // namespace

template <typename T>
void adam_update(const AdamUpdate<T>& o) {
  if (guard_raised(o)) return;
  AdamScalars& adam = *o.adam;
  adam.step += 1;
  const double correction1 = 1 - std::pow(adam.beta1, adam.step);
  const double correction2 = 1 - std::pow(adam.beta2, adam.step);
  for_each_element(o, [&](const AdamTensor<T>& tensor, int64_t begin, int64_t end) {
    const UpdateScalars& s = *tensor.scalars;
    const AdamFactors<T> factors = {static_cast<T>(adam.beta1),
                                    static_cast<T>(adam.beta2),
                                    static_cast<T>(1 - adam.beta1),
                                    static_cast<T>(1 - adam.beta2),
                                    static_cast<T>(1 / std::sqrt(correction2)),
                                    static_cast<T>(adam.epsilon),
                                    static_cast<T>(s.gradient_factor),
                                    static_cast<T>(1 - s.learning_rate * s.decay),
                                    static_cast<T>(s.learning_rate / correction1),
                                    static_cast<T>(s.learning_rate * s.threshold)};
    return factors.threshold > 0 ? update_range<true>(tensor, factors, begin, end)
                                 : update_range<false>(tensor, factors, begin, end);
  });
}

ALTMIN_INSTANTIATE(adam_update, void, AdamUpdate)

}  // namespace altmin::cpu::ALTMIN_ISA
