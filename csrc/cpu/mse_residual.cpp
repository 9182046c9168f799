#include "ops/mse_residual.h"

#include <cmath>

#include "parallel.h"

namespace altmin::cpu::ALTMIN_ISA {

// Single-threaded for the same reason as softmax_residual.
template <typename T>
void mse_residual(const MseResidual<T>& o) {
  if (o.bias_gradient) std::fill_n(o.bias_gradient, o.width, T(0));
  const T factor = T(2) / static_cast<T>(o.width);
  double sum = 0;
  for (int64_t b = 0; b < o.batch; ++b) {
    const T* logits = o.logits + b * o.width;
    const T* targets = o.targets + b * o.width;
    T* residual = o.residual + b * o.width;
    T square = 0;
#pragma omp simd reduction(+ : square)
    for (int64_t j = 0; j < o.width; ++j) {
      const T error = logits[j] + (o.bias ? o.bias[j] : T(0)) - targets[j];
      square += error * error;
      residual[j] = factor * error;
    }
    sum += square;
    if (o.bias_gradient) {
#pragma omp simd
      for (int64_t j = 0; j < o.width; ++j) o.bias_gradient[j] += residual[j];
    }
  }
  raise_unless_finite(sum, o.guard);
  *o.loss = static_cast<T>(sum / static_cast<double>(o.batch * o.width));
}

ALTMIN_INSTANTIATE(mse_residual, void, MseResidual)

}  // namespace altmin::cpu::ALTMIN_ISA
