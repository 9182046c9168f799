#include "ops/convolve.h"

#include <limits>

#include "activation_loops.h"
#include "convolution.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// Zero, but NaN where a code is not finite.
template <typename T>
T probe(const T* code, int64_t n) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += code[i] - code[i];
  return sum;
}

// The largest of each window of `rows`, pool rows of a channel. `place` is that of the row of codes, whose probe it
// returns.
template <typename T>
T pool_row(const Convolve<T>& o, const T* rows, int64_t place) {
  const int64_t pool = o.shape.pool, row_stride = o.shape.convolved_width() * lanes;
  const int64_t end = place + o.shape.code_width() * lanes;
  Vector<T> finite = {};
  const Vector<T> lowest = broadcast(-std::numeric_limits<T>::infinity());
  for (; place < end; place += lanes, rows += pool * lanes) {
    for (int64_t lane = 0; lane < lanes; lane += vector_width<T>) {
      Vector<T> best = lowest, second = lowest;
      Places<T> winner = {}, own = {};
      for (int64_t y = 0; y < pool; ++y) {
        for (int64_t x = 0; x < pool; ++x, own += 1) {
          const Vector<T> next = load(rows + y * row_stride + x * lanes + lane);
          const Places<T> wins = (next > best) | (next != next);
          const Vector<T> loser = wins ? best : next;
          second = loser > second ? loser : second;
          best = wins ? next : best;
          winner = wins ? own : winner;
        }
      }
      store(o.code + place + lane, best);
      finite += best - best;
      if (o.winner) store_places<T>(o.winner + place + lane, winner);
      if (o.gap) store(o.gap + place + lane, best - second);
    }
  }
  T sum = 0;
  for (int64_t lane = 0; lane < vector_width<T>; ++lane) sum += finite[lane];
  return sum;
}

template <typename T>
void activate_row(const Convolve<T>& o, int64_t place, int64_t n) {
  T* activation = o.activation + place;
  activation_values(o.kind, o.parameter, o.code + place, activation, n);
  if (!o.mask) return;
  const T* __restrict mask = o.mask + place;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) activation[i] *= mask[i];
}

}  // namespace

template <typename T>
void convolve(const Convolve<T>& o) {
  const ConvolutionShape& s = o.shape;
  const int64_t rows = s.code_height(), codes = s.code_width() * lanes, image = s.height * s.width * lanes;
  if (s.groups == 0 || s.outputs == 0 || rows == 0 || codes == 0) return;
  const Filters<T> filters = filters_of(s, o.weight);
  const int64_t columns = s.convolved_width(), windows = s.pool * columns * lanes;
  const int threads = threads_for_convolution(s);
  const Scratch<T> memory(threads, s.pool == 1 ? 0 : filters.block * windows);
  const double sum = parallel_sum(
      s.groups * rows, threads,
      [&](int thread, int64_t begin, int64_t end) {
        T finite = 0;
        T* const convolved = s.pool == 1 ? nullptr : memory[thread];
        for (int64_t item = begin; item < end; ++item) {
          const int64_t group = item / rows, row = item % rows;
          const Images<T> images = {o.input + group * s.inputs * image, s.height, s.width, image};
          filters.for_blocks([&](int64_t first, int64_t count) {
            const auto place = [&](int64_t c) { return ((group * s.outputs + c) * rows + row) * codes; };
            for (int64_t y = 0; y < s.pool; ++y) {
              T* const out = convolved ? convolved + y * columns * lanes : o.code + place(first);
              convolve_row(filters, first, count, images, row * s.pool + y - s.padding_height, s.padding_width,
                           o.bias, out, columns, convolved ? windows : rows * codes);
            }
            for (int64_t c = first; c < first + count; ++c) {
              finite += convolved ? pool_row(o, convolved + (c - first) * windows, place(c))
                                  : probe(o.code + place(c), codes);
              activate_row(o, place(c), codes);
            }
          });
        }
        return static_cast<double>(finite);
      },
      1);
  raise_unless_finite(sum, o.guard);
}

ALTMIN_INSTANTIATE(convolve, void, Convolve)

}  // namespace altmin::cpu::ALTMIN_ISA
