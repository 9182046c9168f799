// softmax_prox: the proximal map of the cross-entropy, row by row
//
//   out = argmin_z  -log softmax(z)[label] + rho / 2 ||z - center||^2
//
// With p = softmax(z), z = center + (onehot(label) - p) / rho. All p follow from the loss at the minimiser,
// n = -log p[label]:
//
//   z[label] = center[label] + rise   with  rise = (1 - exp(-n)) / rho
//   z[j]     = center[j] - omega_j    with  omega_j + log omega_j = center[j] - center[label] - log rho - rise - n
//
// where omega_j = p[j] / rho is the Wright omega function of the right-hand side. As p adds up to one, n is the zero of
// sum omega_j - rise, which is convex and decreasing: Newton's method from the left never oversteps it. (The same in
// logsumexp(z), which is n + z[label], would subtract numbers of the size of 1 / rho.)
//
// Computed in float64 for both dtypes. Returns -1, or the index of the first label outside [0, classes): then nothing
// has been written. Raises the guard when out is not finite. `out` may be `center`; nothing else may overlap.
#pragma once

#include <cmath>
#include <cstdint>

#include "backend.h"
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
  if (x < -40) return std::exp(x);
  double omega;
  if (x < 1) {
    const double tangent = 2 * (x - 1) / 3;
    omega = std::exp(x < tangent ? x : tangent);
  } else {
    const double log_x = std::log(x);
    omega = x - log_x + log_x / x;
  }
  for (int i = 0; i < 2; ++i) {  // of fourth order, by Fritsch, Shafer and Crowley
    const double r = x - omega - std::log(omega);
    const double a = 2 * (1 + omega) * (1 + omega + 2 * r / 3);
    omega += omega * r * (a - r) / ((1 + omega) * (a - 2 * r));
  }
  return omega;
}

// Sums of omega_j and of its derivative, over all classes but the label.
struct OmegaSums {
  double values, slopes;

  ALTMIN_HOST_DEVICE void add(double omega) {
    values += omega;
    slopes += omega / (1 + omega);
  }
};

ALTMIN_HOST_DEVICE inline double rise_of(double loss, double rho) { return -std::expm1(-loss) / rho; }

// What the differences center[j] - center[label] are shifted by.
ALTMIN_HOST_DEVICE inline double shift_of(double loss, double rho) {
  return std::log(rho) + rise_of(loss, rho) + loss;
}

// The loss at the minimiser. `lead` is the largest center minus that of the label, sum(shift) the OmegaSums.
template <typename Sum>
ALTMIN_HOST_DEVICE inline double loss_at_minimiser(double lead, double rho, const Sum& sum) {
  // No omega_j exceeds the rise, and the rise no 1 / rho, so that the loss is at least this.
  double loss = lead > 2 / rho ? lead - 2 / rho : 0.0;
  double step;
  do {
    const OmegaSums omegas = sum(shift_of(loss, rho));
    const double rise_slope = std::exp(-loss) / rho;
    step = (omegas.values - rise_of(loss, rho)) / (omegas.slopes * (1 + rise_slope) + rise_slope);
    loss += step;
  } while (step > 1e-9 * loss);  // the error is of the order of the step's square; a NaN ends it, too
  return loss;
}

}  // namespace ALTMIN_ISA

}  // namespace altmin

ALTMIN_OP(softmax_prox, int64_t, SoftmaxProx)
