#include "ops/activation_difference.h"

#include "activation_loops.h"
#include "parallel.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// Elements [i, i + n), n at most activation_chunk.
template <typename T>
void difference_chunk(const ActivationDifference<T>& o, T unit, int64_t i, int64_t n) {
  const T* __restrict code = o.code + i;
  const T* __restrict moved = o.moved + i;
  T displacement[activation_chunk], values[activation_chunk];
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) displacement[j] = -moved[j];
  activation_falls(o.kind, o.parameter, code, displacement, unit, values, o.difference + i, n);
  if (!o.point) return;
  T* __restrict point = o.point + i;
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) point[j] = code[j] + unit * moved[j];
}

}  // namespace

template <typename T>
void activation_difference(const ActivationDifference<T>& o) {
  const T unit = static_cast<T>(*o.unit);
  parallel_ranges(o.size, threads_for(o.size), [&](int, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += activation_chunk)
      difference_chunk(o, unit, i, std::min(activation_chunk, end - i));
  });
}

ALTMIN_INSTANTIATE(activation_difference, void, ActivationDifference)

}  // namespace altmin::cpu::ALTMIN_ISA
