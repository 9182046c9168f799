#include "ops/memory_update.h"

#include <cstring>
#include <memory>

#include "lane_product.h"
#include "parallel.h"
#include "transpose.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// Samples whose sum is taken in registers before it is added to the memory: what is read for them stays in the
// nearest caches, and many sums of few numbers lose fewer digits than one of many.
constexpr int64_t most_samples = 256;

// Columns copied side by side.
template <typename T>
inline constexpr int64_t panel = 2 * vector_width<T>;

// What some samples add: products of panels, which are some columns of [a~ c] for all of them.
template <typename T>
class Block {
 public:
  explicit Block(const MemoryUpdate<T>& o)
      : o_(o),
        gram_panels_((o.n_gram + panel<T> - 1) / panel<T>),
        panels_(gram_panels_ + (o.n_out + panel<T> - 1) / panel<T>),
        copies_(new T[static_cast<size_t>(panels_ * panel<T> * std::min(o.batch, most_samples))]) {}

  // The samples [begin, end).
  void take(int64_t begin, int64_t end) {
    begin_ = begin;
    samples_ = end - begin;
  }
  int64_t panels() const { return panels_; }

  void copy(int64_t p) {
    const bool of_gram = p < gram_panels_;
    const int64_t first = (of_gram ? p : p - gram_panels_) * panel<T>;
    const int64_t width = of_gram ? o_.n_in : o_.n_out,
                  columns = std::clamp<int64_t>(width - first, 0, panel<T>);
    const bool one = of_gram && o_.n_gram > o_.n_in && columns < panel<T>;  // the bias's column of ones
    const T* from = (of_gram ? o_.activation : o_.code) + begin_ * width + std::min(first, width);
    T* to = copies_.get() + p * panel<T> * samples_;
    for (int64_t b = 0; b < samples_; ++b, from += width, to += panel<T>) {
      if (columns == panel<T>) {
        std::memcpy(to, from, panel<T> * sizeof(T));
        continue;
      }
      std::copy_n(from, columns, to);
      std::fill(to + columns, to + panel<T>, T(0));
      if (one) to[columns] = T(1);
    }
  }

  // The rows of gram or cross that belong to a panel's columns, once all panels are there.
  void add(int64_t p, T forgetting) const {
    const bool of_gram = p < gram_panels_;
    const int64_t first = (of_gram ? p : p - gram_panels_) * panel<T>;
    const Tiles cut(std::min(panel<T>, (of_gram ? o_.n_gram : o_.n_out) - first), Product<T, 2>::most_rows);
    T* const matrix = (of_gram ? o_.gram : o_.cross) + first * o_.n_gram;
    const T sign = o_.subtract ? T(-1) : T(1);
    T product[Product<T, 2>::most_rows * panel<T>];
    for (int64_t right = of_gram ? p : 0; right < gram_panels_; ++right) {
      const int64_t column = right * panel<T>, columns = std::min(panel<T>, o_.n_gram - column);
      if (of_gram) fetch(o_.gram + column * o_.n_gram + first, columns);
      cut.each([&](int64_t row, int64_t rows) {
        fetch(matrix + row * o_.n_gram + column, rows);
        Product<T, 2>::tile(rows)(copy_of(p) + row, panel<T>, samples_, copy_of(right), panel<T>, nullptr,
                                  product, panel<T>);
        for (int64_t i = 0; i < rows; ++i) {
          T* __restrict to = matrix + (row + i) * o_.n_gram + column;
          const T* __restrict sum = product + i * panel<T>;
#pragma omp simd
          for (int64_t j = 0; j < columns; ++j) to[j] = (to[j] - forgetting * to[j]) + sign * sum[j];
        }
      });
      if (of_gram) mirror(first, column, columns);
    }
  }

 private:
  const T* copy_of(int64_t p) const { return copies_.get() + p * panel<T> * samples_; }

  // Asks for what will be written, a panel wide, while products are computed: it seldom is in a near cache.
  void fetch(const T* matrix, int64_t rows) const {
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < panel<T>; j += vector_width<T>) __builtin_prefetch(matrix + i * o_.n_gram + j, 1);
  }

  // The panel's rows of gram into its columns. On the diagonal that makes the lower triangle the upper one's image.
  void mirror(int64_t row, int64_t column, int64_t columns) const {
    constexpr int64_t side = vector_width<T>;
    const int64_t n = o_.n_gram;
    T *from = o_.gram + row * n + column, *to = o_.gram + column * n + row;
    if (from != to && columns == panel<T>) {
      for (int64_t i = 0; i < panel<T>; i += side)
        for (int64_t j = 0; j < panel<T>; j += side) {
          Vector<T> square[side];
          for (int64_t k = 0; k < side; ++k) square[k] = load(from + (i + k) * n + j);
          transpose<T>(square);
          for (int64_t k = 0; k < side; ++k) store(to + (j + k) * n + i, square[k]);
        }
      return;
    }
    for (int64_t j = 0; j < columns; ++j)
      for (int64_t i = 0; i < (from == to ? j : panel<T>); ++i) to[j * n + i] = from[i * n + j];
  }

  const MemoryUpdate<T>& o_;
  const int64_t gram_panels_, panels_;
  int64_t begin_ = 0, samples_ = 0;
  const std::unique_ptr<T[]> copies_;  // (panels, samples, panel)
};

}  // namespace

template <typename T>
void memory_update(const MemoryUpdate<T>& o) {
  if (o.n_gram == 0) return;
  // Not one minus it, whose last digits a float would lose: a small share would be another one.
  T forgetting = static_cast<T>(o.scalars->forgetting);
  const int threads = threads_for((o.n_gram + o.n_out) * o.n_gram);
  Block<T> block(o);
  for (int64_t begin = 0; begin == 0 || begin < o.batch; begin += most_samples, forgetting = T(0)) {
    block.take(begin, std::min(o.batch, begin + most_samples));
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
      for (int64_t p = 0; p < block.panels(); ++p) block.copy(p);
// A panel further down the triangle has less to do. Who computes it makes no difference to it.
#pragma omp for schedule(dynamic)
      for (int64_t p = 0; p < block.panels(); ++p) block.add(p, forgetting);
    }
  }
}

ALTMIN_INSTANTIATE(memory_update, void, MemoryUpdate)

}  // namespace altmin::cpu::ALTMIN_ISA
