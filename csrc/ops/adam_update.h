// adam_update: Adam (Kingma & Ba 2015) with decoupled decay and a soft threshold, on many tensors in one call
//
//   t <- t + 1;  g = gradient_factor * gradient;  w <- (1 - lr decay) w
//   m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2
//   w <- soft(w - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon), lr threshold)
//
// All or nothing: if a weight or moment would not be finite, nothing is written but the flags of the tensors that have
// one. Gradients decide about that, and before anything is written. Weights and moments must be finite, and the moments
// those that earlier updates have left, or zero; where they are not, the flag goes up while the others move. Does nothing
// if a flag of the guard is raised, or without a tensor. Nothing may overlap.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "backend.h"
#include "platform.h"
#include "scalars.h"
#include "update.h"

namespace altmin {

template <typename T>
struct AdamTensor {
  int64_t size;
  T* weight;
  const T* gradient;
  T* first_moment;
  T* second_moment;
  const UpdateScalars* scalars;
  double* guard;
};

template <typename T>
struct AdamUpdate {
  std::vector<AdamTensor<T>> tensors;
  AdamScalars* adam;
  const double* guard;  // (guards) flags of the whole step
  int64_t guards;
};

inline namespace ALTMIN_ISA {

// The scalars of the formula, the same on every device.
template <typename T>
struct AdamFactors {
  T beta1, beta2, rest1, rest2, root2, epsilon;  // root2 = 1 / sqrt(1 - beta2^t)
  T gradient, keep, step, threshold;
  T largest;  // absolute value of a gradient that surely leaves all finite
};

// 1 - beta^t, by which a moment is divided.
ALTMIN_HOST_DEVICE inline double correction_of(const AdamScalars& adam, double beta) {
  return 1 - std::pow(beta, adam.step + 1);
}

template <typename T>
ALTMIN_HOST_DEVICE inline AdamFactors<T> factors_of(const AdamScalars& adam, double first_correction,
                                                    double second_correction, const UpdateScalars& s) {
  constexpr double largest = std::numeric_limits<T>::max();
  const double step = s.learning_rate / first_correction, root2 = 1 / std::sqrt(second_correction);
  // A first moment is an average of gradients, whose squares were finite in the second one.
  const double first_moment = std::sqrt(largest / (1 - adam.beta2));
  const bool safe = shrinks(s) && adam.beta1 >= 0 && adam.beta1 <= 1 && adam.beta2 >= 0 && root2 <= largest &&
                    static_cast<T>(adam.epsilon) > 0 &&
                    std::fabs(step) * first_moment <= safe_move<T> * (adam.epsilon < 1 ? adam.epsilon : 1.0);
  return {static_cast<T>(adam.beta1),
          static_cast<T>(adam.beta2),
          static_cast<T>(1 - adam.beta1),
          static_cast<T>(1 - adam.beta2),
          static_cast<T>(root2),
          static_cast<T>(adam.epsilon),
          static_cast<T>(s.gradient_factor),
          static_cast<T>(1 - s.learning_rate * s.decay),
          static_cast<T>(step),
          static_cast<T>(s.learning_rate * s.threshold),
          safe ? largest_gradient<T>(std::sqrt(largest) / 2, s.gradient_factor) : T(-1)};
}

// What an element becomes, before the threshold.
template <typename T>
struct AdamElement {
  T weight, first_moment, second_moment;
};

template <typename T>
ALTMIN_HOST_DEVICE inline AdamElement<T> moved(const AdamFactors<T>& f, T weight, T first_moment,
                                               T second_moment, T gradient) {
  const T g = f.gradient * gradient;
  const T m = f.beta1 * first_moment + f.rest1 * g;
  const T v = f.beta2 * second_moment + f.rest2 * g * g;
  return {f.keep * weight - f.step * m / (std::sqrt(v) * f.root2 + f.epsilon), m, v};
}

}  // namespace ALTMIN_ISA

}  // namespace altmin

ALTMIN_WIDE_OP(adam_update, void, AdamUpdate)
