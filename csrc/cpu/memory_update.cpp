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
constexpr int64_t panel = 2 * vector_width<T>;

// Rows and columns of a block of the memory, which is read and written in pieces of some cache lines: rows whose distance
// is about a multiple of a page share a set of the nearest cache, which holds few of them at a time.
template <typename T>
constexpr int64_t side = 256 / sizeof(T);

// What some samples add: products of panels, which are some columns of [a~ c] for all of them.
template <typename T>
class Sum {
 public:
  explicit Sum(const MemoryUpdate<T>& o)
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

  // Rows of blocks, of gram and then of cross.
  int64_t rows_of_blocks() const { return gram_blocks() + blocks_in(o_.n_out); }

  // Adds to such a row, in gram from the diagonal on, once all panels are there.
  void add(int64_t row, T forgetting) const {
    const bool of_gram = row < gram_blocks();
    const T* const given = of_gram ? o_.gram_before : o_.cross_before;
    const T* const before = begin_ == 0 && given != nullptr ? given : of_gram ? o_.gram : o_.cross;
    for (int64_t column = of_gram ? row : 0; column < gram_blocks(); ++column)
      add_block(of_gram, (of_gram ? row : row - gram_blocks()) * side<T>, column * side<T>, before, forgetting);
  }

 private:
  // Of a tile: few registers are better not all taken by sums.
  static constexpr int64_t most_rows = vector_registers == 32 ? 14 : 6;

  static int64_t blocks_in(int64_t extent) { return (extent + side<T> - 1) / side<T>; }
  int64_t gram_blocks() const { return blocks_in(o_.n_gram); }
  const T* copy_of(int64_t p) const { return copies_.get() + p * panel<T> * samples_; }

  void add_block(bool of_gram, int64_t row, int64_t column, const T* before, T forgetting) const {
    const int64_t n = o_.n_gram;
    const int64_t rows = std::min(side<T>, (of_gram ? n : o_.n_out) - row),
                  columns = std::min(side<T>, n - column);
    T* const to = (of_gram ? o_.gram : o_.cross) + row * n + column;
    T* const image = of_gram && !o_.upper ? o_.gram + column * n + row : nullptr;
    before += row * n + column;
    const bool on_diagonal = of_gram && row == column;
    fetch(to, rows, columns);
    if (before != to) fetch(before, rows, columns);
    if (image && !on_diagonal) fetch(image, columns, rows);
    alignas(64) T block[side<T> * side<T>], turned[side<T> * side<T>];
    const int64_t first_panel = (of_gram ? 0 : gram_panels_) + row / panel<T>;
    for (int64_t i = 0; i < rows; i += panel<T>)
      for (int64_t j = on_diagonal ? i : 0; j < columns; j += panel<T>)
        multiply(copy_of(first_panel + i / panel<T>), std::min(panel<T>, rows - i),
                 copy_of((column + j) / panel<T>), block + i * side<T> + j);
    const T sign = o_.subtract ? T(-1) : T(1);
    for (int64_t r = 0; r < rows; ++r) {
      const T* past = before + r * n;
      T* next = to + r * n;
      T* __restrict sum = block + r * side<T>;
#pragma omp simd
      for (int64_t j = on_diagonal ? r : 0; j < columns; ++j)
        next[j] = sum[j] = (past[j] - forgetting * past[j]) + sign * sum[j];
    }
    if (!image) return;
    turn(block, rows, columns, turned);
    for (int64_t j = 0; j < columns; ++j)
      std::memcpy(image + j * n, turned + j * side<T>, static_cast<size_t>(on_diagonal ? j : rows) * sizeof(T));
  }

  // Some columns of [a~ c] times a panel of them.
  void multiply(const T* left, int64_t rows, const T* right, T* product) const {
    Tiles(rows, most_rows).each([&](int64_t row, int64_t count) {
      product_tile<T>(2, count)(left + row, panel<T>, samples_, right, panel<T>, nullptr,
                                product + row * side<T>, side<T>);
    });
  }

  // A block's columns to rows. What is behind its edges, or below the diagonal, means nothing.
  static void turn(const T* block, int64_t rows, int64_t columns, T* turned) {
    constexpr int64_t width = vector_width<T>;
    for (int64_t i = 0; i < rows; i += width)
      for (int64_t j = 0; j < columns; j += width) {
        Vector<T> square[width];
        for (int64_t k = 0; k < width; ++k) square[k] = load(block + (i + k) * side<T> + j);
        transpose<T>(square);
        for (int64_t k = 0; k < width; ++k) store(turned + (j + k) * side<T> + i, square[k]);
      }
  }

  // Asks for what will be written while products are computed: it seldom is in a near cache.
  void fetch(const T* matrix, int64_t rows, int64_t columns) const {
    constexpr int64_t line = 64 / sizeof(T);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t j = 0; j < columns; j += line) __builtin_prefetch(matrix + r * o_.n_gram + j, 1);
      __builtin_prefetch(matrix + r * o_.n_gram + columns - 1, 1);
    }
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
  Sum<T> sum(o);
  for (int64_t begin = 0; begin == 0 || begin < o.batch; begin += most_samples, forgetting = T(0)) {
    sum.take(begin, std::min(o.batch, begin + most_samples));
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
      for (int64_t p = 0; p < sum.panels(); ++p) sum.copy(p);
// A row further down the triangle has less to do. Who computes it makes no difference to it.
#pragma omp for schedule(dynamic)
      for (int64_t row = 0; row < sum.rows_of_blocks(); ++row) sum.add(row, forgetting);
    }
  }
}

ALTMIN_INSTANTIATE(memory_update, void, MemoryUpdate)

}  // namespace altmin::cpu::ALTMIN_ISA
