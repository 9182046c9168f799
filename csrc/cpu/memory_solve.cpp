#include "ops/memory_solve.h"

#include <cmath>
#include <limits>

#include "lane_product.h"
#include "parallel.h"
#include "transpose.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

template <typename T>
class MinibatchSolver {
 public:
  explicit MinibatchSolver(const MemorySolve<T>& o)
      : o_(o),
        groups_(groups_of(o.batch)),
        stride_(groups_ * lanes + width),  // the last panel of a row may reach beyond it
        parts_(std::clamp<int64_t>(o.n / slice, 1, most_parts)),
        threads_(threads_for(o.n * o.batch * groups_)),
        matrix_(1, stride_ * stride_),
        sums_(1, parts_ * pairs() * lanes * lanes),
        inputs_(threads_, 2 * groups_ * lanes * slice),
        columns_(threads_, o.batch * width) {}

  void run() {
    multiply();
    collect();
    *o_.smallest_pivot = decompose();
    if (!(*o_.smallest_pivot > 0)) {
      std::fill_n(o_.factor, o_.batch * o_.n, std::numeric_limits<T>::quiet_NaN());
      std::fill_n(o_.solution, o_.batch * o_.n, std::numeric_limits<T>::quiet_NaN());
      return;
    }
    parallel_ranges(o_.n, threads_, [&](int thread, int64_t begin, int64_t end) {
      for (; begin < end; begin += width) substitute(begin, std::min(width, end - begin), columns_[thread]);
    });
  }

 private:
  // Columns of U whose products with X are summed in registers before they are added to S: many sums of few numbers
  // lose fewer digits than one of many.
  static constexpr int64_t slice = 128;
  // Parts of these sums that threads may share, however many threads there are.
  static constexpr int64_t most_parts = 8;
  // Numbers that are summed in registers before they are taken off.
  static constexpr int64_t few = 16;
  // Columns that are solved for together.
  static constexpr int64_t width = 2 * vector_width<T>;
  static constexpr int64_t most_rows = Product<T, 2>::most_rows;

  int64_t pairs() const { return groups_ * (groups_ + 1) / 2; }

  // Products of the samples of two groups of 16, each pair once, in parts that add up.
  void multiply() const {
    parallel_ranges(
        parts_, static_cast<int>(std::min<int64_t>(threads_, parts_)),
        [&](int thread, int64_t part, int64_t end) {
          for (; part < end; ++part) {
            T* const sums = sums_[0] + part * pairs() * lanes * lanes;
            std::fill_n(sums, pairs() * lanes * lanes, T(0));
            const int64_t last = o_.n * (part + 1) / parts_;
            for (int64_t column = o_.n * part / parts_; column < last; column += slice)
              add_slice(column, std::min(slice, last - column), inputs_[thread], sums);
          }
        },
        1);
  }

  void add_slice(int64_t column, int64_t columns, T* left, T* sums) const {
    T* const right = left + groups_ * lanes * slice;
    for (int64_t group = 0; group < groups_; ++group) {
      const int64_t first = group * lanes, samples = std::min(lanes, o_.batch - first),
                    start = first * o_.n + column;
      to_lanes(o_.product + start, o_.n, samples, columns, left + first * slice);
      to_lanes(o_.inputs + start, o_.n, samples, columns, right + first * slice);
    }
    const auto tile = LaneProduct<T>::tile;
    constexpr int64_t rows = std::min<int64_t>(LaneProduct<T>::most_rows, lanes);
    T product[lanes * lanes];
    for (int64_t i = 0; i < groups_; ++i) {
      for (int64_t j = i; j < groups_; ++j, sums += lanes * lanes) {
        Tiles(lanes, rows).each([&](int64_t row, int64_t count) {
          tile(count)(left + i * lanes * slice + row, lanes, columns, right + j * lanes * slice, lanes, nullptr,
                      product + row * lanes, lanes);
        });
#pragma omp simd
        for (int64_t k = 0; k < lanes * lanes; ++k) sums[k] += product[k];
      }
    }
  }

  // The upper triangle of S.
  void collect() const {
    T* const s = matrix_[0];
    std::fill_n(s, stride_ * stride_, T(0));
    const T* sums = sums_[0];
    const T sign = o_.removes ? T(-1) : T(1);
    for (int64_t i = 0; i < groups_; ++i)
      for (int64_t j = i; j < groups_; ++j, sums += lanes * lanes)
        for (int64_t row = 0; row < lanes; ++row)
          for (int64_t column = 0; column < lanes; ++column) {
            T sum = 0;
            for (int64_t part = 0; part < parts_; ++part)
              sum += sums[part * pairs() * lanes * lanes + row * lanes + column];
            s[(i * lanes + row) * stride_ + j * lanes + column] = sign * sum;
          }
    for (int64_t i = 0; i < o_.batch; ++i) s[i * stride_ + i] += T(1);
  }

  // C's transposed above the diagonal of the matrix and C below; on it the inverse of C's. Returns the smallest pivot.
  double decompose() const {
    T* const s = matrix_[0];
    double smallest = 1;
    bool is_sound = true;
    Tiles(o_.batch, most_rows).each([&](int64_t first, int64_t rows) {
      if (!is_sound) return;
      for (int64_t column = first; first > 0 && column < o_.batch; column += width)
        take_off(s + first, rows, first, s + column, stride_, s + first * stride_ + column, stride_);
      for (int64_t i = first; i < first + rows; ++i) {
        T* __restrict row = s + i * stride_;
        const T pivot = row[i];
        if (!(pivot > T(0) && pivot <= std::numeric_limits<T>::max())) {
          is_sound = false;
          return;
        }
        smallest = i == 0 ? static_cast<double>(pivot) : std::min(smallest, static_cast<double>(pivot));
        const T inverse = T(1) / std::sqrt(pivot);
#pragma omp simd
        for (int64_t j = i + 1; j < o_.batch; ++j) row[j] *= inverse;
        for (int64_t k = i + 1; k < first + rows; ++k) {
          T* __restrict below = s + k * stride_;
          const T multiple = row[k];
#pragma omp simd
          for (int64_t j = k; j < o_.batch; ++j) below[j] -= multiple * row[j];
        }
        row[i] = inverse;
        for (int64_t j = i + 1; j < o_.batch; ++j) s[j * stride_ + i] = row[j];
      }
    });
    return is_sound ? smallest : std::numeric_limits<double>::quiet_NaN();
  }

  // Some columns of K and Z, in memory for a panel of them.
  void substitute(int64_t column, int64_t columns, T* x) const {
    for (int64_t i = 0; i < o_.batch; ++i) {
      T* const row = x + i * width;
      std::copy_n(o_.product + i * o_.n + column, columns, row);
      std::fill(row + columns, row + width, T(0));
    }
    const Tiles blocks(o_.batch, most_rows);
    blocks.each([&](int64_t first, int64_t rows) {
      subtract(first, rows, 0, first, x);
      for (int64_t i = first; i < first + rows; ++i) eliminate(i, i + 1, first + rows, x);
    });
    put(x, column, columns, o_.factor);
    for (int64_t block = blocks.count; block-- > 0;) {
      const int64_t first = blocks.first(block), end = first + blocks.rows(block);
      subtract(first, end - first, end, o_.batch, x);
      for (int64_t i = end; i-- > first;) eliminate(i, first, i, x);
    }
    put(x, column, columns, o_.solution);
  }

  void subtract(int64_t first, int64_t rows, int64_t begin, int64_t end, T* x) const {
    take_off(matrix_[0] + begin * stride_ + first, rows, end - begin, x + begin * width, width,
             x + first * width, width);
  }

  // to -= M x for a panel, M given by its columns. Sums of few numbers are taken apart: they lose fewer digits.
  void take_off(const T* columns, int64_t rows, int64_t count, const T* x, int64_t x_stride, T* to,
                int64_t to_stride) const {
    T product[most_rows * width];
    Tiles(count, few).each([&](int64_t begin, int64_t summands) {
      Product<T, 2>::tile(rows)(columns + begin * stride_, stride_, summands, x + begin * x_stride, x_stride,
                                nullptr, product, width);
      for (int64_t i = 0; i < rows; ++i) {
#pragma omp simd
        for (int64_t j = 0; j < width; ++j) to[i * to_stride + j] -= product[i * width + j];
      }
    });
  }

  // Solves for a row, and takes it off the rows [begin, end).
  void eliminate(int64_t row, int64_t begin, int64_t end, T* x) const {
    T* __restrict solved = x + row * width;
    const T* const multiples = matrix_[0] + row * stride_;
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) solved[j] *= multiples[row];
    for (int64_t k = begin; k < end; ++k) {
      T* __restrict other = x + k * width;
      const T multiple = multiples[k];
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) other[j] -= multiple * solved[j];
    }
  }

  void put(const T* x, int64_t column, int64_t columns, T* matrix) const {
    for (int64_t i = 0; i < o_.batch; ++i) std::copy_n(x + i * width, columns, matrix + i * o_.n + column);
  }

  const MemorySolve<T>& o_;
  const int64_t groups_, stride_, parts_;
  const int threads_;
  const Scratch<T, 0> matrix_;   // S and then C
  const Scratch<T, 1> sums_;     // (parts, pairs of groups, 16, 16)
  const Scratch<T, 2> inputs_;   // U and X, a slice of them in lanes
  const Scratch<T, 3> columns_;  // a panel
};

}  // namespace

template <typename T>
void memory_solve(const MemorySolve<T>& o) {
  if (o.batch == 0 || o.n == 0) {
    *o.smallest_pivot = 1;
    return;
  }
  MinibatchSolver<T>(o).run();
}

ALTMIN_INSTANTIATE(memory_solve, void, MemorySolve)

}  // namespace altmin::cpu::ALTMIN_ISA
