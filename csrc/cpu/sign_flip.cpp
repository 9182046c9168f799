#include "ops/sign_flip.h"

#include "parallel.h"
#include "sums.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// Rows [begin, end); returns the sum of squares of their displacement.
template <typename T>
double flip_rows(const SignFlip<T>& o, const T factor, int64_t begin, int64_t end) {
  const T* __restrict norm = o.norm;
  double sum = 0;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t place = row * o.width;
    const T* __restrict code = o.code + place;
    const T* pulled_back = o.pulled_back + place;  // no __restrict: it may be `displacement`
    T* displacement = o.displacement + place;
    if (o.mask) {
      const T* __restrict mask = o.mask + place;
#pragma omp simd
      for (int64_t j = 0; j < o.width; ++j)
        displacement[j] = flip_displacement(code[j], factor * pulled_back[j], norm[j], mask[j]);
    } else {
#pragma omp simd
      for (int64_t j = 0; j < o.width; ++j)
        displacement[j] = flip_displacement(code[j], factor * pulled_back[j], norm[j], T(1));
    }
    sum += sum_of_squares(displacement, o.width);
  }
  return sum;
}

}  // namespace

template <typename T>
void sign_flip(const SignFlip<T>& o) {
  const T factor = pull_factor(o);
  const int64_t batch = o.width > 0 ? o.size / o.width : 0;
  const double sum = parallel_sum(
      batch, threads_for(o.size),
      [&](int, int64_t begin, int64_t end) { return flip_rows(o, factor, begin, end); }, 1);
  raise_unless_finite(sum, o.guard);
  conclude(o, sum);
}

ALTMIN_INSTANTIATE(sign_flip, void, SignFlip)

}  // namespace altmin::cpu::ALTMIN_ISA
