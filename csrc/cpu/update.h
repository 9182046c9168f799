// What the weight updates share: the guard, and one flat range of elements over many tensors.
#pragma once

#include <cmath>
#include <limits>

#include "ops/proximal.h"
#include "parallel.h"
#include "select.h"

namespace altmin::cpu::ALTMIN_ISA {

template <typename Update>
bool guard_raised(const Update& o) {
  for (int64_t i = 0; i < o.guards; ++i)
    if (o.guard[i] != 0) return true;
  return false;
}

// Shares the elements of all tensors evenly among threads; body(tensor, begin, end) returns how many elements
// it refused because they would not be finite.
template <typename Update, typename Body>
void for_each_element(const Update& o, const Body& body) {
  int64_t total = 0;
  for (const auto& tensor : o.tensors) total += tensor.size;
  parallel_ranges(total, threads_for(total), [&](int, int64_t begin, int64_t end) {
    int64_t offset = 0;
    for (const auto& tensor : o.tensors) {
      const int64_t from = std::max(begin, offset) - offset;
      const int64_t to = std::min(end, offset + tensor.size) - offset;
      if (from < to && body(tensor, from, to) != 0 && tensor.guard) {
#pragma omp atomic write
        *tensor.guard = 1;
      }
      offset += tensor.size;
    }
  });
}

template <typename T>
inline bool is_finite(T w) {
  return std::fabs(w) <= std::numeric_limits<T>::max();
}

}  // namespace altmin::cpu::ALTMIN_ISA
