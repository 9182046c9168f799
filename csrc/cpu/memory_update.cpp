#include "ops/memory_update.h"

#include <vector>

#include "parallel.h"
#include "vector.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// row <- keep row + sum over the batch of factors[b] a~_b from column `begin`. Added one by one, many samples would
// lose digits that the blocks of a matrix product keep: here 32 at a time.
template <typename T>
void add_row(const MemoryUpdate<T>& o, const T keep, const T* factors, int64_t stride, int64_t begin, T* row,
             T* __restrict block) {
  for (int64_t j = begin; j < o.n_gram; ++j) row[j] *= keep;
  for (int64_t start = 0; start < o.batch; start += 32) {
    std::fill(block + begin, block + o.n_gram, T(0));
    const int64_t end = std::min(o.batch, start + 32);
    for (int64_t b = start; b < end; ++b) {
      const T factor = factors ? factors[b * stride] : T(1);
      const T* __restrict activation = o.activation + b * o.n_in;
#pragma omp simd
      for (int64_t j = begin; j < o.n_in; ++j) block[j] += factor * activation[j];
      if (o.n_gram > o.n_in) block[o.n_in] += factor;
    }
#pragma omp simd
    for (int64_t j = begin; j < o.n_gram; ++j) row[j] += block[j];
  }
}

}  // namespace

// Threads take turns at the rows, whose upper triangle gets shorter from one to the next.
template <typename T>
void memory_update(const MemoryUpdate<T>& o) {
  const T keep = static_cast<T>(1 - o.scalars->forgetting);
  const int64_t rows = o.n_gram + o.n_out, n = o.n_gram;
#pragma omp parallel num_threads(threads_for(rows* n))
  {
    std::vector<T> block(static_cast<size_t>(n));
#pragma omp for schedule(static, 1)
    for (int64_t i = 0; i < rows; ++i) {
      if (i >= n)
        add_row(o, keep, o.code + (i - n), o.n_out, 0, o.cross + (i - n) * n, block.data());
      else
        add_row(o, keep, i < o.n_in ? o.activation + i : nullptr, o.n_in, i, o.gram + i * n, block.data());
    }
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < i; ++j) o.gram[i * n + j] = o.gram[j * n + i];
  }
}

ALTMIN_INSTANTIATE(memory_update, void, MemoryUpdate)

}  // namespace altmin::cpu::ALTMIN_ISA
