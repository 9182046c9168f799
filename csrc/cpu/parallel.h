// Threads for the CPU kernels: static ranges, so that results depend on the thread count only.
//
// An exception cannot leave a parallel region. Kernels therefore take all their memory before it, and before they
// write anything: what cannot be had is a std::bad_alloc that leaves all as it was.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <memory>

#include "ops/guard.h"

namespace altmin::cpu::ALTMIN_ISA {

inline constexpr int max_threads = 256;
// Elements one thread must have for a second one to pay: waking it costs about as much as 16k elements.
inline constexpr int64_t elements_per_thread = 16384;

inline int threads_for(int64_t elements) {
  const int64_t useful = std::min<int64_t>(elements / elements_per_thread, max_threads);
  return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(useful, omp_get_max_threads())));
}

// Splits [0, count) over `threads`; body(thread, begin, end). Cuts fall on multiples of `multiple`, a cache
// line of floats by default, so that two threads never write one line. Where there are fewer threads than that, as
// within a parallel region, one takes the parts of several, and the sums come out the same.
template <typename Body>
void parallel_ranges(int64_t count, int threads, const Body& body, int64_t multiple = 16) {
  if (threads <= 1) {
    body(0, int64_t{0}, count);
    return;
  }
  const int64_t blocks = (count + multiple - 1) / multiple;
#pragma omp parallel num_threads(threads)
  {
    for (int thread = omp_get_thread_num(); thread < threads; thread += omp_get_num_threads()) {
      const int64_t begin = std::min(count, blocks * thread / threads * multiple);
      const int64_t end = std::min(count, blocks * (thread + 1) / threads * multiple);
      if (begin < end) body(thread, begin, end);
    }
  }
}

// Sum of body(thread, begin, end) over ranges of [0, count); partial sums are added in thread order.
template <typename Body>
double parallel_sum(int64_t count, int threads, const Body& body, int64_t multiple = 16) {
  double partial[max_threads] = {};
  parallel_ranges(
      count, threads,
      [&](int thread, int64_t begin, int64_t end) { partial[thread] = body(thread, begin, end); }, multiple);
  double sum = 0;
  for (int thread = 0; thread < threads; ++thread) sum += partial[thread];
  return sum;
}

// Memory for each of several threads, without a value as yet, until the caller asks for numbers of this type and index
// again. It grows once, to the largest that is asked for. No two threads share a cache line.
template <typename T, int index = 0>
class Scratch {
 public:
  Scratch(int threads, int64_t size) : stride_((size + line - 1) / line * line) {
    static thread_local std::unique_ptr<T[]> memory;
    static thread_local int64_t capacity = 0;
    const int64_t needed = threads * stride_ + line;
    if (capacity < needed) {
      capacity = 0;
      memory.reset();  // before there is more, which is not always there for both
      memory.reset(new T[static_cast<size_t>(needed)]);
      capacity = needed;
    }
    const auto past_line = reinterpret_cast<uintptr_t>(memory.get()) % line_bytes / sizeof(T);
    start_ = memory.get() + (line - static_cast<int64_t>(past_line)) % line;
  }
  T* operator[](int thread) const { return start_ + thread * stride_; }

 private:
  static constexpr int64_t line_bytes = 64, line = line_bytes / sizeof(T);
  int64_t stride_;
  T* start_;
};

inline void raise_unless_finite(double sum, double* guard) {
  if (guard && !is_finite_sum(sum)) *guard = 1;
}

}  // namespace altmin::cpu::ALTMIN_ISA
