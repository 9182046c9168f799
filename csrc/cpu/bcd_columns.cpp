#include "ops/bcd_columns.h"

#include <limits>
#include <vector>

#include "lane_product.h"
#include "ops/proximal.h"
#include "parallel.h"
#include "transpose.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// Groups of rows that go through the columns together, so that a block of A is read once for all of them.
constexpr int64_t groups_together = 4;

// One thread's memory for a few groups of 16 rows, side by side in lanes.
template <typename T>
class ColumnSweep {
 public:
  // `memory` lends size_of(columns) numbers.
  ColumnSweep(const BcdColumns<T>& o, const T* gram, T smallest, T* memory)
      : o_(o),
        gram_(gram),
        n_(o.columns),
        smallest_(smallest),
        threshold_(static_cast<T>(o.scalars->threshold)),
        blocks_(n_, LaneProduct<T>::most_rows),
        weight_(memory),
        cross_(weight_ + groups_together * n_ * lanes),
        rest_(cross_ + groups_together * n_ * lanes) {}

  static int64_t size_of(int64_t columns) {
    return (2 * groups_together * columns + LaneProduct<T>::most_rows) * lanes;
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
      to_lanes(o_.weight + first, n_, rows, n_, weight_ + offset);
      to_lanes(o_.cross + first, n_, rows, n_, cross_ + offset);
    });
    for (int sweep = 0; sweep < o_.sweeps; ++sweep)
      blocks_.each([&](int64_t column, int64_t columns) {
        each([&](int64_t, int64_t, int64_t offset) {
          descend(column, columns, weight_ + offset, cross_ + offset);
        });
      });
    each([&](int64_t rows, int64_t first, int64_t offset) {
      from_lanes(weight_ + offset, rows, n_, o_.weight + first, n_);
    });
  }

 private:
  // The columns of a block, one after the other: W A_j for all of them at once, and then what each that moves
  // changes for those that follow.
  void descend(int64_t column, int64_t columns, T* __restrict weight, const T* __restrict cross) const {
    T* __restrict product = rest_;
    LaneProduct<T>::tile(columns)(gram_ + column * n_, columns, n_, weight, lanes, nullptr, product, lanes);
    for (int64_t j = 0; j < columns; ++j) {
      const T* const row = o_.gram + (column + j) * n_ + column;
      const T diagonal = row[j];
      if (diagonal <= smallest_) continue;  // a NaN goes on, to be seen
      const bool free = o_.has_bias && column + j == n_ - 1;
      T* __restrict w = weight + (column + j) * lanes;
      const T* __restrict b = cross + (column + j) * lanes;
      T moved[lanes];
#pragma omp simd
      for (int64_t lane = 0; lane < lanes; ++lane)
        moved[lane] = w[lane] + (b[lane] - product[j * lanes + lane]) / diagonal;
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
      T step[lanes];
#pragma omp simd
      for (int64_t lane = 0; lane < lanes; ++lane) {
        step[lane] = moved[lane] - w[lane];
        w[lane] = moved[lane];
      }
      for (int64_t k = j + 1; k < columns; ++k) {
#pragma omp simd
        for (int64_t lane = 0; lane < lanes; ++lane) product[k * lanes + lane] += step[lane] * row[k];
      }
    }
  }

  const BcdColumns<T>& o_;
  const T* const gram_;  // (blocks, n, columns of the block)
  const int64_t n_;
  const T smallest_, threshold_;
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
  for (int64_t j = 0; j < n; ++j) largest = std::max(largest, o.gram[j * n + j]);
  const T smallest = largest * std::numeric_limits<T>::epsilon();
  const int64_t parts = (groups_of(o.rows) + groups_together - 1) / groups_together;
  // Block by block, each without gaps.
  static thread_local std::vector<T> memory;  // grows once, to the largest stage
  if (memory.size() < static_cast<size_t>(n * n)) memory.resize(static_cast<size_t>(n * n));
  T* const gram = memory.data();
  Tiles(n, LaneProduct<T>::most_rows).each([&](int64_t column, int64_t columns) {
    T* to = gram + column * n;
    for (int64_t k = 0; k < n; ++k, to += columns) std::copy_n(o.gram + k * n + column, columns, to);
  });
  const int threads = threads_for(o.rows * n);
  const Scratch<T> rows(threads, ColumnSweep<T>::size_of(n));
  parallel_ranges(
      parts, threads,
      [&](int thread, int64_t begin, int64_t end) {
        ColumnSweep<T> sweep(o, gram, smallest, rows[thread]);
        for (int64_t part = begin; part < end; ++part)
          sweep.run(part * groups_together, std::min(groups_of(o.rows), (part + 1) * groups_together));
      },
      1);
}

ALTMIN_INSTANTIATE(bcd_columns, void, BcdColumns)

}  // namespace altmin::cpu::ALTMIN_ISA
