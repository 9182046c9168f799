#include "ops/softmax_prox.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/lanes.h"
#include "parallel.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// What an element takes here, in elements of a kernel that streams through memory.
constexpr int64_t effort = 32;

// One block of 16 rows, side by side in lanes; one that is not full repeats its last row. Each lane takes the steps that it would take alone.
template <typename T>
class RowBlock {
 public:
  // `differences` lends memory for classes * lanes numbers.
  RowBlock(const SoftmaxProx<T>& o, double* differences)
      : o_(o), log_rho_(std::log(o.rho)), differences_(differences) {}

  // Returns zero, or a NaN if not all results are finite.
  double solve(int64_t first, int64_t rows) {
    gather(first, rows);
    for (int64_t l = 0; l < lanes; ++l) stepping_[l] = 1;
    do take_step();
    while (any_steps());
    return scatter(first, rows);
  }

 private:
  void gather(int64_t first, int64_t rows) {
    for (int64_t l = 0; l < lanes; ++l) {
      const int64_t row = first + std::min(l, rows - 1);
      const T* center = o_.center + row * o_.classes;
      labels_[l] = o_.labels[row];
      of_label_[l] = center[labels_[l]];
      for (int64_t j = 0; j < o_.classes; ++j)
        differences_[j * lanes + l] = static_cast<double>(center[j]) - of_label_[l];
    }
    double lead[lanes] = {};
    for (int64_t j = 0; j < o_.classes; ++j)
#pragma omp simd
      for (int64_t l = 0; l < lanes; ++l) {
        const double difference = differences_[j * lanes + l];
        lead[l] = difference > lead[l] ? difference : lead[l];
      }
    for (int64_t l = 0; l < lanes; ++l)
      differences_[labels_[l] * lanes + l] = -std::numeric_limits<double>::infinity();  // whose omega is zero
    double values[lanes] = {}, squares[lanes] = {};
    for (int64_t j = 0; j < o_.classes; ++j)
#pragma omp simd
      for (int64_t l = 0; l < lanes; ++l) {
        SoftmaxSums sums{values[l], squares[l]};
        sums.add(exponential_to_zero(differences_[j * lanes + l] - lead[l]));
        values[l] = sums.values;
        squares[l] = sums.squares;
      }
#pragma omp simd
    for (int64_t l = 0; l < lanes; ++l) loss_[l] = least_loss(lead[l], o_.rho, {values[l], squares[l]});
  }

  void set_shifts() {
#pragma omp simd
    for (int64_t l = 0; l < lanes; ++l) shift_[l] = shift_of(loss_[l], o_.rho, log_rho_);
  }

  void take_step() {
    set_shifts();
    double values[lanes] = {}, slopes[lanes] = {};
    for (int64_t j = 0; j < o_.classes; ++j) {
      const double* difference = differences_ + j * lanes;
#pragma omp simd
      for (int64_t l = 0; l < lanes; ++l) {
        OmegaSums sums{values[l], slopes[l]};
        sums.add(wright_omega(difference[l] - shift_[l]));
        values[l] = sums.values;
        slopes[l] = sums.slopes;
      }
    }
#pragma omp simd
    for (int64_t l = 0; l < lanes; ++l) {
      const double step = newton_step(loss_[l], o_.rho, {values[l], slopes[l]});
      loss_[l] += stepping_[l] ? step : 0.0;
      stepping_[l] &= goes_on(step, loss_[l]);
    }
  }

  bool any_steps() const {
    return std::any_of(stepping_, stepping_ + lanes, [](int64_t stepping) { return stepping != 0; });
  }

  double scatter(int64_t first, int64_t rows) {
    set_shifts();
    for (int64_t j = 0; j < o_.classes; ++j) {
      double* difference = differences_ + j * lanes;
#pragma omp simd
      for (int64_t l = 0; l < lanes; ++l) difference[l] = wright_omega(difference[l] - shift_[l]);
    }
    T zero = 0;
    for (int64_t l = 0; l < rows; ++l) {
      const T* center = o_.center + (first + l) * o_.classes;
      T* out = o_.out + (first + l) * o_.classes;  // may be `center`
      const double of_label = of_label_[l] + rise_of(loss_[l], o_.rho);
      for (int64_t j = 0; j < o_.classes; ++j) {
        out[j] = static_cast<T>(j == labels_[l] ? of_label : center[j] - differences_[j * lanes + l]);
        zero += out[j] * T(0);
      }
    }
    return zero;
  }

  const SoftmaxProx<T>& o_;
  const double log_rho_;
  double* differences_;  // (classes, lanes): center less that of the label, in the end omega
  double of_label_[lanes], loss_[lanes], shift_[lanes];
  int64_t labels_[lanes], stepping_[lanes];
};

}  // namespace

template <typename T>
int64_t softmax_prox(const SoftmaxProx<T>& o) {
  const int64_t classes = o.classes;
  for (int64_t row = 0; row < o.batch; ++row)
    if (o.labels[row] < 0 || o.labels[row] >= classes) return row;
  const int threads = threads_for(effort * o.batch * classes);
  const Scratch<double> differences(threads, o.batch > 0 ? classes * lanes : 0);
  const double zero = parallel_sum(
      o.batch, threads,
      [&](int thread, int64_t begin, int64_t end) {
        RowBlock<T> block(o, differences[thread]);
        double sum = 0;
        for (int64_t row = begin; row < end; row += lanes) sum += block.solve(row, std::min(lanes, end - row));
        return sum;
      },
      lanes);
  raise_unless_finite(zero, o.guard);
  return -1;
}

ALTMIN_INSTANTIATE(softmax_prox, int64_t, SoftmaxProx)

}  // namespace altmin::cpu::ALTMIN_ISA
