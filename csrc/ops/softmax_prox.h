// softmax_prox: the proximal map of the cross-entropy, row by row
//
//   out = argmin_z  -log softmax(z)[label] + rho / 2 ||z - center||^2
//
// With p = softmax(z), z = center + (onehot(label) - p) / rho. The loss at the minimiser, n = -log p[label],
// determines all of p:
//
//   z[label] = center[label] + rise   with  rise = (1 - exp(-n)) / rho
//   z[j]     = center[j] - omega_j    with  omega_j + log omega_j = center[j] - center[label] - log rho - rise - n
//
// where omega_j = p[j] / rho is the Wright omega function of the right-hand side. Since p adds up to one, n is the
// zero of sum omega_j - rise, which is convex and decreasing: Newton's method from the left never oversteps it. (An
// equation for logsumexp(z) = n + z[label] instead would subtract numbers of the size of 1 / rho.)
//
// Computed in float64 for both dtypes. Returns -1, or the index of the first label outside [0, classes), in which
// case nothing has been written. Raises the guard if out is not finite. `out` may be `center`; nothing else may
// overlap.
#pragma once

#include <cmath>
#include <cstdint>

#include "backend.h"
#include "elementary.h"
#include "platform.h"

namespace altmin {

template <typename T>
struct SoftmaxProx {
  int64_t batch, classes;
  const T* center;        // (batch, classes)
  const int64_t* labels;  // (batch)
  T* out;                 // (batch, classes)
  double rho;             // > 0
  double* guard;
};

inline namespace ALTMIN_ISA {

// omega + log omega = x, to rounding (Lawrence, Corless and Jeffrey 2012, algorithm 917).
ALTMIN_HOST_DEVICE inline double wright_omega(double x) {
  const double tangent = (2.0 / 3) * (x - 1);
  const double small = exponential_to_zero(x < 1 ? (x < tangent ? x : tangent) : 0.0);
  const double log_x = logarithm(x < 1 ? 1.0 : x);
  double omega = x < 1 ? small : x - log_x + log_x / x;
  for (int i = 0; i < 2; ++i) {  // of fourth order, by Fritsch, Shafer and Crowley
    const double r = x - omega - logarithm(omega);
    const double a = 2 * (1 + omega) * (1 + omega + (2.0 / 3) * r);
    omega += omega * r * (a - r) / ((1 + omega) * (a - 2 * r));
  }
  return x < -40 ? small : omega;
}

// Sums of omega_j and of its derivative, over all classes but the label.
struct OmegaSums {
  double values, slopes;

  ALTMIN_HOST_DEVICE void add(double omega) {
    values += omega;
    slopes += omega / (1 + omega);
  }
};

ALTMIN_HOST_DEVICE inline double rise_of(double loss, double rho) { return -exponential_less_one(-loss) / rho; }

// The shift of the differences center[j] - center[label].
ALTMIN_HOST_DEVICE inline double shift_of(double loss, double rho, double log_rho) {
  return log_rho + rise_of(loss, rho) + loss;
}

// Sums over all classes but the label of exp(center[j] - the largest center), and of its square.
struct SoftmaxSums {
  double values, squares;

  ALTMIN_HOST_DEVICE void add(double value) {
    values += value;
    squares += value * value;
  }
};

// A lower bound of the loss at the minimiser. The loss is convex, the minimiser is (onehot - p) / rho away from the
// center, and its p is no farther from onehot than the center's softmax p0. Hence the loss falls by at most
// ||onehot - p0||^2 / rho. `lead` is the largest center minus that of the label.
ALTMIN_HOST_DEVICE inline double least_loss(double lead, double rho, const SoftmaxSums sums) {
  const double total = sums.values + exponential_to_zero(-lead);
  const double least =
      lead + logarithm(total) - (sums.values * sums.values + sums.squares) / (total * total * rho);
  return least < 0 ? 0.0 : least;
}

// The rise of the loss in a step of Newton's method. The sums are those at shift_of(loss).
ALTMIN_HOST_DEVICE inline double newton_step(double loss, double rho, const OmegaSums omegas) {
  const double rise_slope = exponential_to_zero(-loss) / rho;
  return (omegas.values - rise_of(loss, rho)) / (omegas.slopes * (1 + rise_slope) + rise_slope);
}

// Whether another step is needed: the error is of the order of the square of the last step. A NaN ends it, too.
ALTMIN_HOST_DEVICE inline bool goes_on(double step, double loss) { return step > 1e-9 * loss; }

}  // namespace ALTMIN_ISA

}  // namespace altmin

ALTMIN_WIDE_OP(softmax_prox, int64_t, SoftmaxProx)
