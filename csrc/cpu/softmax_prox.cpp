#include "ops/softmax_prox.h"

#include <algorithm>

#include "parallel.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// What an element takes here, in elements of a kernel that streams through memory.
constexpr int64_t effort = 64;

// Returns zero, or a NaN if not all results are finite.
template <typename T>
double prox_row(const T* center, int64_t classes, int64_t label, double rho, T* out) {
  const double of_label = center[label];
  const auto omega = [&](int64_t j, double shift) { return wright_omega(center[j] - of_label - shift); };
  const double largest = *std::max_element(center, center + classes);
  const double loss = loss_at_minimiser(largest - of_label, rho, [&](double shift) {
    OmegaSums sums{};
    for (int64_t j = 0; j < classes; ++j)
      if (j != label) sums.add(omega(j, shift));
    return sums;
  });
  const double rise = rise_of(loss, rho), shift = shift_of(loss, rho);
  T zero = 0;
  for (int64_t j = 0; j < classes; ++j) {
    out[j] = static_cast<T>(j == label ? of_label + rise : center[j] - omega(j, shift));
    zero += out[j] * T(0);
  }
  return zero;
}

}  // namespace

template <typename T>
int64_t softmax_prox(const SoftmaxProx<T>& o) {
  const int64_t classes = o.classes;
  for (int64_t row = 0; row < o.batch; ++row)
    if (o.labels[row] < 0 || o.labels[row] >= classes) return row;
  const double zero = parallel_sum(
      o.batch, threads_for(effort * o.batch * classes),
      [&](int64_t begin, int64_t end) {
        double sum = 0;
        for (int64_t row = begin; row < end; ++row)
          sum += prox_row(o.center + row * classes, classes, o.labels[row], o.rho, o.out + row * classes);
        return sum;
      },
      1);
  raise_unless_finite(zero, o.guard);
  return -1;
}

ALTMIN_INSTANTIATE(softmax_prox, int64_t, SoftmaxProx)

}  // namespace altmin::cpu::ALTMIN_ISA
