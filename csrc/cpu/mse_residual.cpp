#include "ops/mse_residual.h"

#include <cmath>

#include "parallel.h"
#include "sums.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// Whose squares are added in T; those sums in double.
constexpr int64_t most_columns = 256;

}  // namespace

// Single-threaded for the same reason as softmax_residual.
template <typename T>
void mse_residual(const MseResidual<T>& o) {
  const T factor = T(2) / static_cast<T>(o.width);
  double sum = 0;
  for (int64_t b = 0; o.width > 0 && b < o.batch; ++b) {
    const T* logits = o.logits + b * o.width;
    const T* targets = o.targets + b * o.width;
    T* residual = o.residual + b * o.width;
    for (int64_t begin = 0; begin < o.width; begin += most_columns) {
      const int64_t end = std::min(begin + most_columns, o.width);
      T square = 0;
#pragma omp simd reduction(+ : square)
      for (int64_t j = begin; j < end; ++j) {
        const T error = logits[j] + (o.bias ? o.bias[j] : T(0)) - targets[j];
        square += error * error;
        residual[j] = factor * error;
      }
      sum += square;
    }
  }
  if (o.bias_gradient) sum_columns(o.residual, o.batch, o.width, o.bias_gradient);
  const double mean = sum / static_cast<double>(o.batch * o.width);
  raise_unless_finite(std::fabs(mean), o.guard);
  *o.loss = static_cast<T>(mean);
}

ALTMIN_INSTANTIATE(mse_residual, void, MseResidual)

}  // namespace altmin::cpu::ALTMIN_ISA
