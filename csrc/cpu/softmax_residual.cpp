#include "ops/softmax_residual.h"

#include <cmath>

#include "ops/activation.h"
#include "parallel.h"
#include "sums.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// Elements whose exponentials are taken in one vector loop: a row of ten classes alone would leave most of it
// to the scalar remainder.
constexpr int64_t softmax_chunk = 1024;

template <typename T>
void exponential_in_place(T* __restrict x, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) x[i] = exponential(x[i]);
}

}  // namespace

// Single-threaded: a row has as many elements as there are classes, and a second thread would wake for nothing
// on the batches of online training.
template <typename T>
int64_t softmax_residual(const SoftmaxResidual<T>& o) {
  const int64_t classes = o.classes;
  for (int64_t b = 0; b < o.batch; ++b)
    if (o.labels[b] < 0 || o.labels[b] >= classes) return b;
  const int64_t rows = std::max<int64_t>(1, softmax_chunk / classes);
  double loss = 0;
  int64_t correct = 0;
  for (int64_t start = 0; start < o.batch; start += rows) {
    const int64_t stop = std::min(o.batch, start + rows);
    for (int64_t b = start; b < stop; ++b) {
      const T* logits = o.logits + b * classes;
      T* residual = o.residual + b * classes;
      T largest = logits[0] + (o.bias ? o.bias[0] : T(0));
      int64_t winner = 0;
      for (int64_t j = 0; j < classes; ++j) {
        const T z = logits[j] + (o.bias ? o.bias[j] : T(0));
        residual[j] = z;
        winner = z > largest ? j : winner;
        largest = z > largest ? z : largest;
      }
      for (int64_t j = 0; j < classes; ++j) residual[j] -= largest;
      loss -= static_cast<double>(residual[o.labels[b]]);
      correct += winner == o.labels[b];
    }
    exponential_in_place(o.residual + start * classes, (stop - start) * classes);
    for (int64_t b = start; b < stop; ++b) {
      T* residual = o.residual + b * classes;
      double sum = 0;  // of a thousand classes, too
      for (int64_t j = 0; j < classes; ++j) sum += residual[j];
      loss += std::log(sum);
      const T inverse = static_cast<T>(1 / sum);
      for (int64_t j = 0; j < classes; ++j) residual[j] *= inverse;
      residual[o.labels[b]] -= T(1);
    }
  }
  if (o.bias_gradient) sum_columns(o.residual, o.batch, classes, o.bias_gradient);
  const double mean = loss / static_cast<double>(o.batch);
  raise_unless_finite(std::fabs(mean), o.guard);
  *o.loss = static_cast<T>(mean);
  *o.correct = correct;
  return -1;
}

ALTMIN_INSTANTIATE(softmax_residual, int64_t, SoftmaxResidual)

}  // namespace altmin::cpu::ALTMIN_ISA
