#include "ops/bcd_columns.h"

#include <limits>
#include <type_traits>

#include "lane_product.h"
#include "ops/proximal.h"
#include "parallel.h"
#include "transpose.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// What the damping adds to the diagonal, and the largest entry of it that leaves its column alone.
template <typename T>
struct Diagonal {
  T added, smallest;

  explicit Diagonal(const BcdColumns<T>& o) {
    T largest = 0;
    double trace = 0;
    for (int64_t j = 0; j < o.columns; ++j) {
      const T entry = o.gram[j * o.columns + j];
      largest = std::max(largest, entry);
      trace += static_cast<double>(entry);
    }
    const double damping = o.scalars->damping;
    added = damping > 0 ? static_cast<T>(damping * (trace / static_cast<double>(o.columns))) : T(0);
    smallest = (largest + added) * std::numeric_limits<T>::epsilon();
  }
};

// The first sweep from zero, which is a forward substitution: rows of W by triu(A) = B. The sum of a column goes through
// those before it one after the other, as it does in a sweep from zeros, so that the bits are the same.
template <typename T>
class Substitution {
 public:
  // `memory` lends size_of(rows, columns) numbers.
  Substitution(const BcdColumns<T>& o, const Diagonal<T>& diagonal, T* memory)
      : o_(o),
        n_(o.columns),
        tail_(n_ / strip * strip),
        diagonal_(diagonal),
        threshold_(static_cast<T>(o.scalars->threshold)),
        panel_(memory),
        sums_of_tail_(panel_ + depth * strip) {}

  static int64_t size_of(int64_t rows, int64_t columns) {
    return (depth + rows) * strip + stride_of(rows) * columns;
  }

  // Rows from `row` on. Whole blocks of columns are taken off all that follow, as products of matrices; within a block
  // that happens square by square.
  void run(int64_t row, int64_t rows) {
    row_ = row;
    rows_ = rows;
    stride_ = stride_of(rows);
    known_ = sums_of_tail_ + rows * strip;
    for (int64_t first = 0; first < n_; first += depth) {
      const int64_t last = std::min(n_, first + depth);
      for (int64_t column = first; column < last; column += width) {
        multiply<1>(first, column, column);
        solve(column, std::min(width, n_ - column));
      }
      for (int64_t column = last; column < n_; column += strip) multiply<2>(first, last, column);
    }
  }

 private:
  static constexpr int64_t width = vector_width<T>, strip = 2 * width, depth = 8 * width;
  // Of a tile: few registers are better not all taken by sums.
  template <int vectors>
  static constexpr int64_t most_rows =
      std::min(Product<T, vectors>::most_rows, vector_registers == 32 || vectors == 1 ? 28 : 6);

  // An odd number of cache lines: equal places of rows do not share a set of the nearest cache.
  static int64_t stride_of(int64_t rows) {
    constexpr int64_t line = 64 / sizeof(T);
    return ((rows + line - 1) / line | 1) * line;
  }

  T* weight(int64_t row, int64_t column) const { return o_.weight + (row_ + row) * n_ + column; }

  // What W triu(A) is in a column without its own part, as far as W is known: until the column is solved for, it is kept
  // in its place, but for the last columns, where a strip would not fit.
  struct Sums {
    T* first;
    int64_t stride;
  };
  Sums sums_of(int64_t column) const {
    return column < tail_ ? Sums{weight(0, column), n_} : Sums{sums_of_tail_ + (column - tail_), strip};
  }

  // Adds what the columns [first, last) of W, which are known, contribute to one or two vectors' columns.
  template <int vectors>
  void multiply(int64_t first, int64_t last, int64_t column) const {
    if (first == last) return;
    const T* gram = o_.gram + first * n_ + column;
    int64_t gram_stride = n_;
    if ((last - 1) * n_ + column + vectors * width > n_ * n_) {  // it would be read beyond its end
      for (int64_t k = first; k < last; ++k, gram += n_)
        std::copy_n(gram, n_ - column, panel_ + (k - first) * strip);
      gram = panel_;
      gram_stride = strip;
    }
    const Sums sums = sums_of(column);
    const Tiles cut(rows_, most_rows<vectors>);
    const int64_t share = (last - first + cut.count - 1) / cut.count;
    int64_t fetched = first;
    cut.each([&](int64_t row, int64_t rows) {
      const T* const next = o_.gram + column + strip;
      for (const int64_t end = std::min(last, fetched + share); vectors == 2 && fetched < end; ++fetched) {
        __builtin_prefetch(next + fetched * n_ + width - 1);
        __builtin_prefetch(next + fetched * n_ + strip - 1);
      }
      T* const to = sums.first + row * sums.stride;
      product_tile<T>(vectors, rows)(known_ + first * stride_ + row, stride_, last - first, gram, gram_stride,
                                     first > 0 ? to : nullptr, to, sums.stride);
    });
  }

  // The columns of a square on the diagonal, one after the other, for a vector of rows at a time.
  void solve(int64_t column, int64_t columns) const {
    T gram[width][width] = {};
    for (int64_t j = 0; j < columns; ++j) {
      for (int64_t k = j; k < columns; ++k) gram[j][k] = o_.gram[(column + j) * n_ + column + k];
      gram[j][j] += diagonal_.added;
    }
    const Sums from = sums_of(column);
    for (int64_t row = 0; row < rows_; row += width) {
      const int64_t rows = std::min(width, rows_ - row);
      alignas(64) T square[width][width];  // of B, and then of W
      turn(o_.cross + (row_ + row) * n_ + column, n_, rows, columns, square[0]);
      Vector<T> sums[width] = {};
      if (column > 0)
#pragma GCC unroll 16
        for (int64_t r = 0; r < width; ++r)
          if (r < rows) sums[r] = load(from.first + (row + r) * from.stride);
      transpose<T>(sums);
      T* const known = known_ + column * stride_ + row;
#pragma GCC unroll 16
      for (int64_t j = 0; j < width; ++j) {
        if (j >= columns) break;
        const bool free = o_.has_bias && column + j == n_ - 1;
        const T diagonal = gram[j][j];
        Vector<T> w = {};
        if (!(diagonal <= diagonal_.smallest))  // a NaN goes on, to be seen
          w = minimiser(load(square[j]) - sums[j], diagonal, free);
#pragma GCC unroll 16
        for (int64_t k = j + 1; k < width; ++k) sums[k] += w * gram[j][k];
        store(known + j * stride_, w);
        store(square[j], w);
      }
      Vector<T> turned[width];
#pragma GCC unroll 16
      for (int64_t j = 0; j < width; ++j) turned[j] = load(square[j]);
      transpose<T>(turned);
#pragma GCC unroll 16
      for (int64_t r = 0; r < width; ++r)
        if (r < rows) store_part(turned[r], columns, weight(row + r, column));
    }
  }

  // Some rows to lanes, zeros beyond them.
  static void turn(const T* from, int64_t stride, int64_t rows, int64_t columns, T* to) {
    Vector<T> square[width] = {};
#pragma GCC unroll 16
    for (int64_t r = 0; r < width; ++r)
      if (r < rows) square[r] = load_part(from + r * stride, columns);
    transpose<T>(square);
#pragma GCC unroll 16
    for (int64_t j = 0; j < width; ++j) store(to + j * width, square[j]);
  }

  Vector<T> minimiser(const Vector<T> residual, T diagonal, bool free) const {
    Vector<T> w = residual / diagonal;
    if (free) return w;
    if (threshold_ > T(0)) {
      const T t = threshold_ / diagonal;
      w = w > t ? w - t : (w < -t ? w + t : w * T(0));
    }
    if (o_.nonnegative) w = w > T(0) ? w : w * T(0);
    return w;
  }

  static Vector<T> load_part(const T* from, int64_t count) {
    if (count == width) return load(from);
    T part[width] = {};
    for (int64_t i = 0; i < count; ++i) part[i] = from[i];
    return load(part);
  }

  static void store_part(const Vector<T> v, int64_t count, T* to) {
    if (count == width) return store(to, v);
    T part[width];
    store(part, v);
    for (int64_t i = 0; i < count; ++i) to[i] = part[i];
  }

  const BcdColumns<T>& o_;
  const int64_t n_, tail_;
  const Diagonal<T> diagonal_;
  const T threshold_;
  T *const panel_, *const sums_of_tail_;  // (depth, strip), (rows, strip)
  T* known_ = nullptr;                    // W transposed, (n, stride)
  int64_t row_ = 0, rows_ = 0, stride_ = 0;
};

// Groups of rows that go through the columns together: a block of A is read once for all of them, and while one waits
// for its column, which the next column of the same group needs, the others are computed.
constexpr int64_t groups_together = 4;

// Further groups for which a block of A is copied once.
constexpr int64_t groups_at_once = 2 * groups_together;

// One thread's memory for some groups of 16 rows, side by side in lanes.
template <typename T>
class ColumnSweep {
 public:
  // `memory` lends size_of(columns) numbers.
  ColumnSweep(const BcdColumns<T>& o, const Diagonal<T>& diagonal, T* memory)
      : o_(o),
        n_(o.columns),
        diagonal_(diagonal),
        threshold_(static_cast<T>(o.scalars->threshold)),
        blocks_(n_, LaneProduct<T>::most_rows),
        weight_(memory),
        cross_(weight_ + groups_at_once * n_ * lanes),
        rest_(cross_ + groups_at_once * n_ * lanes),
        gram_(rest_ + groups_together * LaneProduct<T>::most_rows * lanes) {}

  static int64_t size_of(int64_t columns) {
    constexpr int64_t most_columns = LaneProduct<T>::most_rows;
    return columns * (most_columns + 2 * groups_at_once * lanes) + groups_together * most_columns * lanes;
  }

  // Some rows from `row` on, of at most groups_at_once groups.
  void run(int64_t row, int64_t rows, int sweeps) {
    const int64_t groups = groups_of(rows);
    const auto each = [&](const auto& body) {
      for (int64_t group = 0; group < groups; ++group)
        body(std::min(lanes, rows - group * lanes), (row + group * lanes) * n_, group * n_ * lanes);
    };
    each([&](int64_t count, int64_t first, int64_t offset) {
      to_lanes(o_.weight + first, n_, count, n_, weight_ + offset);
      to_lanes(o_.cross + first, n_, count, n_, cross_ + offset);
    });
    for (int sweep = 0; sweep < sweeps; ++sweep)
      blocks_.each([&](int64_t column, int64_t columns) {
        copy(column, columns);
        for (int64_t group = 0; group < groups; group += groups_together) {
          switch (groups - group) {
            case 1: descend<1>(group, column, columns); break;
            case 2: descend<2>(group, column, columns); break;
            case 3: descend<3>(group, column, columns); break;
            default: descend<groups_together>(group, column, columns);
          }
        }
      });
    each([&](int64_t count, int64_t first, int64_t offset) {
      from_lanes(weight_ + offset, count, n_, o_.weight + first, n_);
    });
  }

 private:
  // A block of columns of A, without gaps.
  void copy(int64_t column, int64_t columns) const {
    T* to = gram_;
    for (int64_t k = 0; k < n_; ++k, to += columns) std::copy_n(o_.gram + k * n_ + column, columns, to);
    for (int64_t j = 0; j < columns; ++j) gram_[(column + j) * columns + j] += diagonal_.added;
  }

  // The columns of a block, one after the other: W A_j for all of them at once, and then what each that moves
  // changes for those that follow.
  template <int groups>
  void descend(int64_t first, int64_t column, int64_t columns) const {
    const int64_t apart = n_ * lanes;
    constexpr int64_t products_apart = LaneProduct<T>::most_rows * lanes;
    T *const weight = weight_ + first * apart, *const cross = cross_ + first * apart;
    for (int g = 0; g < groups; ++g)
      LaneProduct<T>::tile(columns)(gram_, columns, n_, weight + g * apart, lanes, nullptr,
                                    rest_ + g * products_apart, lanes);
    for (int64_t j = 0; j < columns; ++j) {
      const T* const row = gram_ + (column + j) * columns;
      const T diagonal = row[j];
      if (diagonal <= diagonal_.smallest) continue;  // a NaN goes on, to be seen
      const bool free = o_.has_bias && column + j == n_ - 1;
      T step[groups][lanes];
      for (int g = 0; g < groups; ++g)
        move(weight + g * apart + (column + j) * lanes, cross + g * apart + (column + j) * lanes,
             rest_ + g * products_apart + j * lanes, diagonal, free, step[g]);
      for (int64_t k = j + 1; k < columns; ++k)
        for (int g = 0; g < groups; ++g) {
          T* __restrict product = rest_ + g * products_apart + k * lanes;
#pragma omp simd
          for (int64_t lane = 0; lane < lanes; ++lane) product[lane] += step[g][lane] * row[k];
        }
    }
  }

  // The best w_j of a group, and the step there.
  void move(T* __restrict w, const T* __restrict b, const T* __restrict product, T diagonal, bool free,
            T* __restrict step) const {
    T moved[lanes];
#pragma omp simd
    for (int64_t lane = 0; lane < lanes; ++lane) moved[lane] = w[lane] + (b[lane] - product[lane]) / diagonal;
    if (threshold_ > T(0) && !free) {
#pragma omp simd
      for (int64_t lane = 0; lane < lanes; ++lane)
        moved[lane] = soft_threshold(moved[lane], threshold_ / diagonal);
    }
    if (o_.nonnegative && !free) {
#pragma omp simd
      for (int64_t lane = 0; lane < lanes; ++lane)
        moved[lane] = moved[lane] > T(0) ? moved[lane] : moved[lane] * T(0);
    }
#pragma omp simd
    for (int64_t lane = 0; lane < lanes; ++lane) {
      step[lane] = moved[lane] - w[lane];
      w[lane] = moved[lane];
    }
  }

  const BcdColumns<T>& o_;
  const int64_t n_;
  const Diagonal<T> diagonal_;
  const T threshold_;
  const Tiles blocks_;
  T *const weight_, *const cross_, *const rest_, *const gram_;
};

}  // namespace

// The rows of W are independent problems with the same matrix.
template <typename T>
void bcd_columns(const BcdColumns<T>& o) {
  const int64_t n = o.columns;
  if (n == 0) return;
  constexpr int64_t most_rows = groups_at_once * lanes;
  const Diagonal<T> diagonal(o);
  const int64_t products = o.from_zero && o.sweeps == 1 ? n / 2 : n;
  const int threads = threads_for(o.rows * n * products / 64);
  const int64_t size = std::max(o.from_zero ? Substitution<T>::size_of(std::min(o.rows, most_rows), n) : 0,
                                !o.from_zero || o.sweeps > 1 ? ColumnSweep<T>::size_of(n) : 0);
  const Scratch<T> memory(threads, size);
  parallel_ranges(
      o.rows, threads,
      [&](int thread, int64_t begin, int64_t end) {
        for (; begin < end; begin += most_rows) {
          const int64_t rows = std::min(most_rows, end - begin);
          if (o.from_zero) Substitution<T>(o, diagonal, memory[thread]).run(begin, rows);
          const int sweeps = o.sweeps - o.from_zero;
          if (sweeps > 0) ColumnSweep<T>(o, diagonal, memory[thread]).run(begin, rows, sweeps);
        }
      },
      1);
}

ALTMIN_INSTANTIATE(bcd_columns, void, BcdColumns)

}  // namespace altmin::cpu::ALTMIN_ISA
