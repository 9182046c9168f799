#include "ops/elman_code_step.h"

#include <utility>
#include <vector>

#include "activation_loops.h"
#include "elman.h"
#include "lane_contraction.h"
#include "lane_product.h"
#include "parallel.h"
#include "sums.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// Time steps whose contributions to the sums over time are taken together.
constexpr int64_t step_block = 32;

// What all groups of the batch share.
template <typename T>
struct ElmanShared {
  const ElmanCodeStep<T>& o;
  CodeStepFactors<T> factors;
  T unit_above;
  std::vector<T> transposed_weight;  // U^T
  std::vector<T> weight_gram;        // U^T U; empty for a single iteration

  explicit ElmanShared(const ElmanCodeStep<T>& o_)
      : o(o_), factors(factors_of(o)), unit_above(static_cast<T>(o.above->unit)) {
    const int64_t d = o.width;
    transposed_weight.resize(static_cast<size_t>(d * d));
    for (int64_t i = 0; i < d; ++i)
      for (int64_t j = 0; j < d; ++j)
        transposed_weight[static_cast<size_t>(j * d + i)] = o.recurrent_weight[i * d + j];
    if (o.iterations == 1) return;
    weight_gram.assign(static_cast<size_t>(d * d), T(0));
    T* __restrict gram = weight_gram.data();
    for (int64_t i = 0; i < d; ++i) {
      const T* __restrict row = o.recurrent_weight + i * d;
      for (int64_t j = 0; j < d; ++j) {
#pragma omp simd
        for (int64_t k = 0; k < d; ++k) gram[j * d + k] += row[j] * row[k];
      }
    }
  }
};

// What a sweep takes, in numbers. All parts are whole cache lines long, as long as they begin at one. Vectors that lie
// across two would take a tenth longer.
template <typename T>
struct SweepSizes {
  int64_t code, pair, sums, totals, memory;

  explicit SweepSizes(const ElmanCodeStep<T>& o) {
    const int64_t inputs = o.width + o.n_in + 1;
    code = o.width * lanes;
    pair = (o.width + inputs) * lanes;
    totals = (o.gram ? o.width + inputs : o.width) * inputs;
    sums = totals * lanes;
    memory = 9 * code + step_block * (pair + 2 * code) + 2 * o.n_out * lanes + sums;
  }
};

// One thread's way through its groups, from the last time step of each to the first.
template <typename T>
class BackwardSweep {
 public:
  // `memory` lends SweepSizes::memory numbers; `totals`, for SweepSizes::totals, has the sums of [r; a] a^T in units of
  // delta in the end. output_gradient: (n_out, steps * width) zeros, or null.
  BackwardSweep(const ElmanShared<T>& shared, T* memory, double* totals, T* output_gradient)
      : shared_(shared),
        o_(shared.o),
        d_(o_.width),
        n_(d_ * lanes),
        inputs_(d_ + o_.n_in + 1),
        pull_(d_, o_.n_out, o_.steps * d_),
        through_(d_, d_, d_),
        gradient_(o_.n_out, lanes, o_.n_out, step_block * d_, o_.steps * d_),
        sums_(o_.gram ? d_ + inputs_ : d_, inputs_, (d_ + inputs_) * lanes, d_, memory, totals),
        output_gradient_(output_gradient) {
    const SweepSizes<T> sizes(o_);
    T* next = memory + sizes.sums;
    const auto take = [&next](int64_t size) { return std::exchange(next, next + size); };
    for (T** own : {&pulled_, &back_, &force_, &velocity_, &delta_, &delta_above_, &moved_, &slope_, &reading_})
      *own = take(n_);
    pairs_ = take(step_block * sizes.pair);
    outputs_ = take(step_block * n_);
    output_rows_ = take(step_block * n_);
    displacement_ = take(o_.n_out * lanes);
    residual_ = take(o_.n_out * lanes);
  }

  void run(int64_t group) {
    const Samples samples(group, o_.batch);
    samples.interleave(o_.displacement, o_.n_out, o_.n_out, displacement_);
    if (output_gradient_) samples.copy_rows(o_.residual, o_.n_out, residual_);
    for (int64_t i = 0; i < step_block; ++i) samples.fill_ones(pair(i) + (d_ + inputs_ - 1) * lanes);
    for (int64_t t = o_.steps; t > 0; --t) {
      const T* const hidden = o_.hidden + ((group * o_.steps) + t - 1) * n_;
      pull_(o_.output_weight + (t - 1) * d_, displacement_, nullptr, pulled_);
      output(samples, t, hidden);
      const bool last = t == o_.steps;
      if (!last) through_(o_.recurrent_weight, delta_above_, nullptr, back_);
      move(hidden, last);
      square_ += sum_of_squares(delta_, n_);
      if (!last) {
        T* const to = add_pair(samples, t);
        through_(shared_.transposed_weight.data(), moved_, delta_above_, to);
        const T unit = shared_.factors.unit;
#pragma omp simd
        for (int64_t i = 0; i < n_; ++i) to[n_ + i] = hidden[i] + unit * moved_[i];
      }
      std::swap(delta_, delta_above_);
    }
    if (o_.steps > 0) {
      T* const to = add_pair(samples, 0);
      std::copy_n(delta_above_, n_, to);
      std::fill_n(to + n_, n_, T(0));  // h_0
    }
    close_block();
    sums_.close();
  }

  double square() const { return square_; }
  double residual_square() const { return residual_square_; }

 private:
  T* pair(int64_t i) { return pairs_ + i * (d_ + inputs_) * lanes; }

  // The next pair of a residual and what the weights made it from, [r_{t+1}; h_t; x_{t+1}; 1], with its x.
  T* add_pair(const Samples& samples, int64_t t) {
    if (pairs_there_ == step_block) close_block();
    T* const to = pair(pairs_there_++);
    samples.interleave(o_.x + t * o_.n_in, o_.steps * o_.n_in, o_.n_in, to + 2 * n_);
    return to;
  }

  [[gnu::noinline]] void close_block() {
    for (int64_t i = 0; i < pairs_there_; ++i) residual_square_ += sum_of_squares(pair(i), n_);
    sums_.add(pairs_, pairs_ + n_, pairs_there_);
    pairs_there_ = 0;
  }

  // o_t, of which a block is handed on at once.
  void output(const Samples& samples, int64_t t, const T* hidden) {
    if (!output_gradient_ && !o_.output) return;
    const int64_t first = (t - 1) / step_block * step_block, count = std::min(step_block, o_.steps - first);
    T* const to = outputs_ + (t - 1 - first) * n_;
    const T unit = shared_.unit_above;
    activation_values(o_.kind, o_.parameter, hidden, to, n_);
#pragma omp simd
    for (int64_t i = 0; i < n_; ++i) to[i] -= unit * pulled_[i];
    if (t - 1 > first) return;
    const int64_t columns = count * d_;
    from_lanes(outputs_, lanes, columns, output_rows_, step_block * d_);
    if (o_.output)
      samples.store_rows(output_rows_, step_block * d_, columns, o_.output + first * d_, o_.steps * d_);
    if (!output_gradient_) return;
    T* const gradient = output_gradient_ + first * d_;
    const int64_t whole = columns / vector_width<T> * vector_width<T>;
    for (int64_t j = 0; j < whole; j += vector_width<T>)
      gradient_(residual_, output_rows_ + j, gradient + j, gradient + j);
    for (int64_t k = 0; k < o_.n_out; ++k)
      for (int64_t j = whole; j < columns; ++j)
        for (int64_t lane = 0; lane < lanes; ++lane)
          gradient[k * o_.steps * d_ + j] +=
              residual_[lane * o_.n_out + k] * output_rows_[lane * step_block * d_ + j];
  }

  // delta_t and (h_t - h0_t) / unit from what lies above.
  [[gnu::noinline]] void move(const T* hidden, bool last) {
    if (last) std::fill_n(back_, n_, T(0));
    activation_derivatives(o_.kind, o_.parameter, hidden, slope_, n_);
    begin(hidden, pulled_, back_, slope_, delta_);
    if (o_.iterations > 1) std::copy_n(delta_, n_, velocity_);
    const T step = shared_.factors.eta * (T(1) + shared_.factors.momentum);
    for (int64_t i = 0; i < n_; ++i) delta_[i] *= step;
    displace(hidden, delta_, moved_);
    for (int iteration = 1; iteration < o_.iterations; ++iteration) {
      if (!last) through_(shared_.weight_gram.data(), moved_, back_, force_);
      activation_moves(o_.kind, o_.parameter, hidden, moved_, shared_.factors.unit, slope_, reading_, n_);
      proceed(hidden, moved_, pulled_, last ? back_ : force_, slope_, reading_, velocity_, delta_);
      displace(hidden, delta_, moved_);
    }
  }

  // The gradient of the first iteration.
  void begin(const T* __restrict hidden, const T* __restrict pulled, const T* __restrict back,
             const T* __restrict slope, T* __restrict gradient) const {
    const CodeStepFactors<T> f = shared_.factors;
#pragma omp simd
    for (int64_t i = 0; i < n_; ++i) {
      const T h = hidden[i], force = f.pulled_back * pulled[i] * slope[i] + f.pulled_back_change * back[i];
      gradient[i] = force * (T(1) - h * h);
    }
  }

  // reading: how far phi(h_t) has moved, in units.
  void proceed(const T* __restrict hidden, const T* __restrict moved, const T* __restrict pulled,
               const T* __restrict force, const T* __restrict slope, const T* __restrict reading,
               T* __restrict velocity, T* __restrict delta) const {
    const CodeStepFactors<T> f = shared_.factors;
#pragma omp simd
    for (int64_t i = 0; i < n_; ++i) {
      const T h = hidden[i] + f.unit * moved[i];
      const T pull = f.pulled_back * pulled[i] + f.pulled_back_change * reading[i];
      const T push = pull * slope[i] + f.pulled_back_change * force[i];
      const T gradient = push * (T(1) - h * h) - f.anchor * delta[i];
      velocity[i] = f.momentum * velocity[i] + gradient;
      delta[i] += f.eta * (gradient + f.momentum * velocity[i]);
    }
  }

  [[gnu::noinline]] void displace(const T* __restrict hidden, const T* __restrict delta,
                                  T* __restrict moved) const {
    const T unit = shared_.factors.unit;
    T largest = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < n_; ++i) largest = std::max(largest, std::abs(delta[i]));
    if (unit * largest < small_hidden_displacement<T>) {
#pragma omp simd
      for (int64_t i = 0; i < n_; ++i) moved[i] = small_hidden_difference(hidden[i], delta[i], unit);
    } else {
#pragma omp simd
      for (int64_t i = 0; i < n_; ++i) moved[i] = hidden_difference(hidden[i], delta[i], unit);
    }
  }

  const ElmanShared<T>& shared_;
  const ElmanCodeStep<T>& o_;
  const int64_t d_, n_, inputs_;
  const LaneProduct<T> pull_, through_;
  const Product<T, 1> gradient_;
  LaneContraction<T> sums_;
  T* const output_gradient_;
  T *pulled_, *back_, *force_, *velocity_, *delta_, *delta_above_, *moved_, *slope_, *reading_;
  T *pairs_, *outputs_, *output_rows_, *displacement_, *residual_;
  int64_t pairs_there_ = 0;
  double square_ = 0, residual_square_ = 0;
};

}  // namespace

template <typename T>
void elman_code_step(const ElmanCodeStep<T>& o) {
  const ElmanShared<T> shared(o);
  const SweepSizes<T> sizes(o);
  // Nothing is swept without a code, of whatever size the rest is, unless there are inputs to sum up.
  const int64_t groups = o.size > 0 || o.gram ? groups_of(o.batch) : 0;
  // Each has a group, or there would be no totals of the first.
  const int threads = static_cast<int>(std::min<int64_t>(threads_for(o.size), std::max<int64_t>(1, groups)));
  const int64_t size = o.n_out * o.steps * o.width, inputs = o.width + o.n_in + 1;
  // The first thread's part of the output gradient is where the others' are added to it.
  std::vector<T> gradients(static_cast<size_t>(o.output_gradient ? (threads - 1) * size : 0));
  const Scratch<T> memory(threads, groups > 0 ? sizes.memory : 0);
  const Scratch<double, 1> totals(threads, sizes.totals);
  double squares[max_threads] = {}, residual_squares[max_threads] = {};
  int64_t swept[max_threads] = {};
  std::fill_n(totals[0], sizes.totals, 0.0);
  if (o.output_gradient) std::fill_n(o.output_gradient, size, T(0));
  parallel_ranges(
      groups, threads,
      [&](int thread, int64_t begin, int64_t end) {
        if (begin == end) return;
        T* const gradient = !o.output_gradient ? nullptr
                            : thread == 0      ? o.output_gradient
                                               : gradients.data() + (thread - 1) * size;
        BackwardSweep<T> sweep(shared, memory[thread], totals[thread], gradient);
        for (int64_t group = begin; group < end; ++group) sweep.run(group);
        swept[thread] = end - begin;
        squares[thread] = sweep.square();
        residual_squares[thread] = sweep.residual_square();
      },
      1);
  for (int thread = 1; thread < threads; ++thread) {
    squares[0] += squares[thread];
    residual_squares[0] += residual_squares[thread];
    for (int64_t i = 0; swept[thread] > 0 && i < sizes.totals; ++i) totals[0][i] += totals[thread][i];
    for (int64_t i = 0; o.output_gradient && i < size; ++i)
      o.output_gradient[i] += gradients[static_cast<size_t>((thread - 1) * size + i)];
  }
  raise_unless_finite(squares[0], o.guard);
  conclude(o, squares[0]);
  const double factor = o.scalars->unit / o.scalars->scale;
  o.scalars->residual_square = factor * factor * residual_squares[0];
  for (int64_t i = 0; i < o.width * inputs; ++i) o.cross[i] = static_cast<T>(factor * totals[0][i]);
  const double* const gram = totals[0] + o.width * inputs;
  for (int64_t i = 0; o.gram && i < inputs; ++i)
    for (int64_t j = 0; j <= i; ++j)
      o.gram[i * inputs + j] = o.gram[j * inputs + i] = static_cast<T>(gram[i * inputs + j]);
}

ALTMIN_INSTANTIATE(elman_code_step, void, ElmanCodeStep)

}  // namespace altmin::cpu::ALTMIN_ISA
