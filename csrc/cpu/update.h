// What the weight updates share: the guard, and one flat range of elements over many tensors.
#pragma once

#include <cmath>
#include <cstdint>

#include "ops/update.h"
#include "parallel.h"

namespace altmin::cpu::ALTMIN_ISA {

template <typename Update>
bool guard_raised(const Update& o) {
  for (int64_t i = 0; i < o.guards; ++i)
    if (o.guard[i] != 0) return true;
  return false;
}

// Shares the elements of all tensors evenly among threads. Where body(tensor, begin, end) finds one that is not finite,
// the flag of its tensor goes up. Returns whether it found any.
template <typename Update, typename Body>
bool finds_not_finite(const Update& o, const Body& body) {
  int64_t total = 0;
  for (const auto& tensor : o.tensors) total += tensor.size;
  int found = 0;
  parallel_ranges(total, threads_for(total), [&](int, int64_t begin, int64_t end) {
    int64_t offset = 0;
    for (const auto& tensor : o.tensors) {
      const int64_t from = std::max(begin, offset) - offset;
      const int64_t to = std::min(end, offset + tensor.size) - offset;
      offset += tensor.size;
      if (from >= to || !body(tensor, from, to)) continue;
#pragma omp atomic write
      found = 1;
      if (tensor.guard) {
#pragma omp atomic write
        *tensor.guard = 1;
      }
    }
  });
  return found != 0;
}

// Whether the absolute values of `count` numbers are at most `largest`; that of a NaN never is.
template <typename T>
bool all_within(const T* numbers, int64_t count, const T largest) {
  int outside = 0;
#pragma omp simd reduction(| : outside)
  for (int64_t i = 0; i < count; ++i) outside |= std::fabs(numbers[i]) <= largest ? 0 : 1;
  return outside == 0;
}

}  // namespace altmin::cpu::ALTMIN_ISA
