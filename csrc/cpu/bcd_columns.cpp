#include "ops/bcd_columns.h"

#include <limits>
#include <type_traits>
#include <vector>

#include "lane_product.h"
#include "ops/proximal.h"
#include "parallel.h"
#include "transpose.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// Groups of rows that go through the columns together: a block of A is read once for all of them, and while one waits
// for its column, which the next column of the same group needs, the others are computed.
constexpr int64_t groups_together = 4;

// One thread's memory for a few groups of 16 rows, side by side in lanes.
template <typename T>
class ColumnSweep {
 public:
  // `memory` lends size_of(columns) numbers.
  ColumnSweep(const BcdColumns<T>& o, const T* gram, T added, T smallest, T* memory)
      : o_(o),
        gram_(gram),
        n_(o.columns),
        added_(added),
        smallest_(smallest),
        threshold_(static_cast<T>(o.scalars->threshold)),
        blocks_(n_, LaneProduct<T>::most_rows),
        weight_(memory),
        cross_(weight_ + groups_together * n_ * lanes),
        rest_(cross_ + groups_together * n_ * lanes) {}

  static int64_t size_of(int64_t columns) {
    return groups_together * (2 * columns + LaneProduct<T>::most_rows) * lanes;
  }

  // Rows of the groups [begin, end), at most groups_together.
  void run(int64_t begin, int64_t end) {
    const auto each = [&](const auto& body) {
      for (int64_t group = begin; group < end; ++group) {
        const int64_t first = group * lanes, offset = (group - begin) * n_ * lanes;
        body(std::min(lanes, o_.rows - first), first * n_, offset);
      }
    };
    each([&](int64_t rows, int64_t first, int64_t offset) {
      if (o_.from_zero)
        std::fill_n(weight_ + offset, n_ * lanes, T(0));
      else
        to_lanes(o_.weight + first, n_, rows, n_, weight_ + offset);
      to_lanes(o_.cross + first, n_, rows, n_, cross_ + offset);
    });
    const auto descend_all = [&](auto groups) {
      for (int sweep = 0; sweep < o_.sweeps; ++sweep)
        blocks_.each([&](int64_t column, int64_t columns) {
          descend<groups.value>(column, columns, o_.from_zero && sweep == 0 ? column : n_);
        });
    };
    switch (end - begin) {
      case 1: descend_all(std::integral_constant<int, 1>{}); break;
      case 2: descend_all(std::integral_constant<int, 2>{}); break;
      case 3: descend_all(std::integral_constant<int, 3>{}); break;
      default: descend_all(std::integral_constant<int, groups_together>{});
    }
    each([&](int64_t rows, int64_t first, int64_t offset) {
      from_lanes(weight_ + offset, rows, n_, o_.weight + first, n_);
    });
  }

 private:
  // The columns of a block, one after the other: W A_j for all of them at once, of the first `known` columns of W, behind
  // which it is zero; and then what each that moves changes for those that follow.
  template <int groups>
  void descend(int64_t column, int64_t columns, int64_t known) const {
    const int64_t apart = n_ * lanes;
    constexpr int64_t products_apart = LaneProduct<T>::most_rows * lanes;
    for (int g = 0; g < groups; ++g)
      LaneProduct<T>::tile(columns)(gram_ + column * n_, columns, known, weight_ + g * apart, lanes, nullptr,
                                    rest_ + g * products_apart, lanes);
    for (int64_t j = 0; j < columns; ++j) {
      const T* const row = o_.gram + (column + j) * n_ + column;
      const T diagonal = row[j] + added_;
      if (diagonal <= smallest_) continue;  // a NaN goes on, to be seen
      const bool free = o_.has_bias && column + j == n_ - 1;
      T step[groups][lanes];
      for (int g = 0; g < groups; ++g)
        move(weight_ + g * apart + (column + j) * lanes, cross_ + g * apart + (column + j) * lanes,
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
  const T* const gram_;  // (blocks, n, columns of the block)
  const int64_t n_;
  const T added_, smallest_, threshold_;
  const Tiles blocks_;
  T *const weight_, *const cross_, *const rest_;
};

}  // namespace

// The rows of W are independent problems with the same matrix.
template <typename T>
void bcd_columns(const BcdColumns<T>& o) {
  const int64_t n = o.columns;
  if (n == 0) return;
  T largest = 0;
  double trace = 0;
  for (int64_t j = 0; j < n; ++j) {
    largest = std::max(largest, o.gram[j * n + j]);
    trace += static_cast<double>(o.gram[j * n + j]);
  }
  const double damping = o.scalars->damping;
  const T added = damping > 0 ? static_cast<T>(damping * (trace / static_cast<double>(n))) : T(0);
  const T smallest = (largest + added) * std::numeric_limits<T>::epsilon();
  const int64_t parts = (groups_of(o.rows) + groups_together - 1) / groups_together;
  // Block by block, each without gaps.
  static thread_local std::vector<T> memory;  // grows once, to the largest stage
  if (memory.size() < static_cast<size_t>(n * n)) memory.resize(static_cast<size_t>(n * n));
  T* const gram = memory.data();
  Tiles(n, LaneProduct<T>::most_rows).each([&](int64_t column, int64_t columns) {
    T* to = gram + column * n;
    for (int64_t k = 0; k < n; ++k, to += columns) {
      std::copy_n(o.gram + k * n + column, columns, to);
      if (k >= column && k < column + columns) to[k - column] += added;
    }
  });
  const int threads = threads_for(o.rows * n);
  const Scratch<T> rows(threads, ColumnSweep<T>::size_of(n));
  parallel_ranges(
      parts, threads,
      [&](int thread, int64_t begin, int64_t end) {
        ColumnSweep<T> sweep(o, gram, added, smallest, rows[thread]);
        for (int64_t part = begin; part < end; ++part)
          sweep.run(part * groups_together, std::min(groups_of(o.rows), (part + 1) * groups_together));
      },
      1);
}

ALTMIN_INSTANTIATE(bcd_columns, void, BcdColumns)

}  // namespace altmin::cpu::ALTMIN_ISA
