#include "ops/softmax_residual.h"

#include <cmath>

#include "ops/elementary.h"
#include "ops/lanes.h"
#include "parallel.h"
#include "sums.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// Of a block of 16, from which on it takes less time than its rows one by one.
constexpr int64_t fewest_rows = 3;

// Of several rows.
struct SoftmaxSums {
  double loss = 0;
  int64_t correct = 0;
};

// One block of as many rows as there are lanes, side by side; one that is not full repeats its last row. `logits` lends
// memory for classes * lanes numbers.
template <int64_t lanes, typename T>
void add_block(const SoftmaxResidual<T>& o, int64_t first, int64_t rows, T* __restrict logits,
               SoftmaxSums& sums) {
  const int64_t classes = o.classes;
  for (int64_t l = 0; l < lanes; ++l) {
    const T* row = o.logits + (first + std::min(l, rows - 1)) * classes;
    for (int64_t j = 0; j < classes; ++j) logits[j * lanes + l] = row[j];
  }
  T largest[lanes] = {};
  int32_t winner[lanes] = {};
  for (int64_t j = 0; j < classes; ++j) {
    T* __restrict z = logits + j * lanes;
    const T bias = o.bias ? o.bias[j] : T(0);
#pragma omp simd
    for (int64_t l = 0; l < lanes; ++l) {
      z[l] += bias;
      const bool wins = j == 0 || z[l] > largest[l];
      winner[l] = wins ? static_cast<int32_t>(j) : winner[l];
      largest[l] = wins ? z[l] : largest[l];
    }
  }
  T of_label[lanes];
  for (int64_t l = 0; l < lanes; ++l) of_label[l] = logits[o.labels[first + std::min(l, rows - 1)] * lanes + l];
  double sum[lanes] = {};  // of a thousand classes, too
  for (int64_t j = 0; j < classes; ++j) {
    T* __restrict z = logits + j * lanes;
#pragma omp simd
    for (int64_t l = 0; l < lanes; ++l) {
      z[l] = exponential_to_zero(z[l] - largest[l]);
      sum[l] += static_cast<double>(z[l]);
    }
  }
  T inverse[lanes];
  double loss[lanes];
#pragma omp simd
  for (int64_t l = 0; l < lanes; ++l) {
    inverse[l] = static_cast<T>(1 / sum[l]);
    loss[l] = logarithm(sum[l]) - static_cast<double>(of_label[l] - largest[l]);
  }
  for (int64_t l = 0; l < rows; ++l) {
    T* residual = o.residual + (first + l) * classes;
    for (int64_t j = 0; j < classes; ++j) residual[j] = logits[j * lanes + l] * inverse[l];
    const int64_t label = o.labels[first + l];
    residual[label] -= T(1);
    sums.loss += loss[l];
    sums.correct += winner[l] == label;
  }
}

}  // namespace

// Single-threaded: a row has as many elements as there are classes, and a second thread would wake for nothing
// on the batches of online training.
template <typename T>
int64_t softmax_residual(const SoftmaxResidual<T>& o) {
  const int64_t classes = o.classes;
  for (int64_t b = 0; b < o.batch; ++b)
    if (o.labels[b] < 0 || o.labels[b] >= classes) return b;
  const Scratch<T> logits(1, o.batch > 0 ? classes * lanes : 0);
  SoftmaxSums sums;
  int64_t row = 0;
  for (; row + fewest_rows <= o.batch; row += lanes)
    add_block<lanes>(o, row, std::min(lanes, o.batch - row), logits[0], sums);
  for (; row < o.batch; ++row) add_block<1>(o, row, 1, logits[0], sums);
  if (o.bias_gradient) sum_columns(o.residual, o.batch, classes, o.bias_gradient);
  const double mean = sums.loss / static_cast<double>(o.batch);
  raise_unless_finite(std::fabs(mean), o.guard);
  *o.loss = static_cast<T>(mean);
  *o.correct = sums.correct;
  return -1;
}

ALTMIN_INSTANTIATE(softmax_residual, int64_t, SoftmaxResidual)

}  // namespace altmin::cpu::ALTMIN_ISA
