#include "ops/code_step.h"

#include <cmath>

#include "activation_loops.h"
#include "ops/proximal.h"
#include "parallel.h"
#include "sums.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// Elements handled at a time: every stage of the formula is a vector loop of its own over data that stays in
// the first-level cache, so that optional terms cost neither a branch per element nor a pass over memory.
constexpr int64_t code_chunk = 512;

// gradient = downstream of the code: all of it that does not depend on delta.
template <typename T>
void downstream_chunk(const CodeStep<T>& o, const CodeStepFactors<T> f, T* __restrict gradient, int64_t i,
                      int64_t n) {
  const T* __restrict pulled_back = o.pulled_back + i;
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) gradient[j] = f.pulled_back * pulled_back[j];
  if (o.pulled_back_change) {
    const T* __restrict change = o.pulled_back_change + i;
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) gradient[j] += f.pulled_back_change * change[j];
  }
  if (o.mask) {
    const T* __restrict mask = o.mask + i;
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) gradient[j] *= mask[j];
  }
}

// gradient <- sigma'(c) gradient, c being where the code is now.
template <typename T>
void differentiate_chunk(const CodeStep<T>& o, const CodeStepFactors<T> f, T* __restrict gradient, int64_t i,
                         int64_t n) {
  const T* __restrict code = o.code + i;
  T slope[code_chunk];
  if (o.first) {
    activation_derivatives(o.kind, o.parameter, code, slope, n);
  } else {
    const T* __restrict delta = o.displacement + i;
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) slope[j] = code[j] - f.unit * delta[j];
    activation_derivatives(o.kind, o.parameter, slope, slope, n);
  }
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) gradient[j] *= slope[j];
}

// Moves delta of elements [i, i + n), n at most code_chunk; returns its sum of squares.
template <typename T>
double move_chunk(const CodeStep<T>& o, const CodeStepFactors<T> f, T* __restrict gradient, int64_t i,
                  int64_t n) {
  T* __restrict delta = o.displacement + i;
  const T step = f.eta * (T(1) + f.momentum);  // without velocity
  if (!o.first) {
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) gradient[j] -= f.anchor * delta[j];
  }
  if (o.velocity) {
    T* __restrict velocity = o.velocity + i;
    if (o.first) {
      std::fill_n(delta, n, T(0));
      std::fill_n(velocity, n, T(0));
    }
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) {
      velocity[j] = f.momentum * velocity[j] + gradient[j];
      delta[j] += f.eta * (gradient[j] + f.momentum * velocity[j]);
    }
  } else if (o.first) {
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) delta[j] = step * gradient[j];
  } else {
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) delta[j] += step * gradient[j];
  }
  if (f.threshold > T(0)) {
    const T* __restrict code = o.code + i;
#pragma omp simd
    for (int64_t j = 0; j < n; ++j)
      delta[j] = (code[j] - soft_threshold(code[j] - f.unit * delta[j], f.eta * f.threshold)) / f.unit;
  }
  return sum_of_squares(delta, n);
}

// How far the codes [i, i + n) fall: delta itself, or what the gap leaves of it.
template <typename T>
const T* limited_chunk(const CodeStep<T>& o, const CodeStepFactors<T> f, T* __restrict limited, int64_t i,
                       int64_t n) {
  const T* __restrict delta = o.displacement + i;
  if (!o.gap) return delta;
  const T* __restrict gap = o.gap + i;
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) limited[j] = f.unit * delta[j] > gap[j] ? gap[j] / f.unit : delta[j];
  return limited;
}

template <typename T>
void mask_chunk(T* __restrict values, const T* __restrict mask, int64_t n) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) values[j] *= mask[j];
}

// `activation` may be `code`.
template <typename T>
void activate_chunk(const CodeStep<T>& o, const CodeStepFactors<T> f, const T* __restrict delta, int64_t i,
                    int64_t n) {
  const T* code = o.code + i;
  T* activation = o.activation + i;
  if (o.activation_displacement) {
    activation_falls(o.kind, o.parameter, code, delta, f.unit, activation, o.activation_displacement + i, n);
    return;
  }
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) activation[j] = code[j] - f.unit * delta[j];
  activation_values(o.kind, o.parameter, activation, activation, n);
}

// Whether a step is the only one of its codes, has no terms but those of step_chunk, and an activation that costs next to
// nothing. (All of a costly one in a single loop takes longer than loop by loop.)
template <typename T>
bool is_plain(const CodeStep<T>& o, const CodeStepFactors<T> f) {
  const bool cheap = o.kind == Activation::relu || o.kind == Activation::identity;
  return cheap && o.first && !o.pulled_back_change && !o.mask && !o.velocity && !o.gap && !(f.threshold > T(0));
}

// All of such a step; returns the sum of squares of delta. In one loop GCC would make both sides of sigma's conditions of
// it, and masked stores of these.
template <typename Sigma, typename T>
double plain_chunk(const Sigma sigma, const CodeStep<T>& o, const CodeStepFactors<T> f, int64_t i, int64_t n) {
  const T *code = o.code + i, *pulled_back = o.pulled_back + i;  // no __restrict: what is written may be these
  T *delta = o.displacement + i, *activation = o.activation + i;
  const T step = f.eta * (T(1) + f.momentum);
#pragma omp simd
  for (int64_t j = 0; j < n; ++j)
    delta[j] = step * (f.pulled_back * pulled_back[j] * sigma.derivative(code[j]));
  if (o.activation_displacement) {
    T* __restrict change = o.activation_displacement + i;
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) change[j] = sigma.difference(code[j], delta[j], f.unit);
  }
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) activation[j] = sigma.value(code[j] - f.unit * delta[j]);
  return sum_of_squares(o.displacement + i, n);
}

}  // namespace

template <typename T>
void code_step(const CodeStep<T>& o) {
  const CodeStepFactors<T> f = factors_of(o);
  const bool plain = is_plain(o, f);
  const double sum = parallel_sum(o.size, threads_for(o.size), [&](int, int64_t begin, int64_t end) {
    double square = 0;
    T gradient[code_chunk], limited[code_chunk];
    for (int64_t i = begin; i < end; i += code_chunk) {
      const int64_t n = std::min(code_chunk, end - i);
      if (plain) {
        square += o.kind == Activation::relu ? plain_chunk(Relu<T>{}, o, f, i, n)
                                             : plain_chunk(Identity<T>{}, o, f, i, n);
      } else {
        downstream_chunk(o, f, gradient, i, n);
        differentiate_chunk(o, f, gradient, i, n);
        square += move_chunk(o, f, gradient, i, n);
        const T* const delta = limited_chunk(o, f, limited, i, n);
        activate_chunk(o, f, delta, i, n);
      }
      if (o.mask && o.activation_displacement) mask_chunk(o.activation_displacement + i, o.mask + i, n);
      if (o.mask) mask_chunk(o.activation + i, o.mask + i, n);
    }
    return square;
  });
  raise_unless_finite(sum, o.guard);
  conclude(o, sum);
}

ALTMIN_INSTANTIATE(code_step, void, CodeStep)

}  // namespace altmin::cpu::ALTMIN_ISA
