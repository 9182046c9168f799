// Elementary functions of float64. They have no branches and no calls, so that loops over them vectorise. Errors are
// below two units in the last place. On a GPU they are CUDA's own.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "platform.h"

namespace altmin {

inline namespace ALTMIN_ISA {

inline double from_bits(uint64_t bits) {
  double x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline uint64_t bits_of(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline constexpr double log_2_high = 0x1.62e42fefa38p-1, log_2_low = 0x1.ef35793c7673p-45;

// exp(x) = power (1 + rest), with power a power of two and |rest| < .42; x must lie in [-708, 709].
inline void exponential_parts(double x, double& power, double& rest) {
  const double rounder = 0x1.8p52;  // adding it leaves the nearest integer in the low bits
  const double shifted = x * 0x1.71547652b82fep0 + rounder;
  const double n = shifted - rounder;
  const double r = (x - n * log_2_high) - n * log_2_low;
  double p = 1.0 / 6227020800.0;
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  rest = p * r * r + r;
  power = from_bits((bits_of(shifted) + 1023) << 52);
}

// exp(x) for x up to 709; zero below -708, where the result would be subnormal.
ALTMIN_HOST_DEVICE inline double exponential_to_zero(double x) {
#if defined(__CUDA_ARCH__)
  return exp(x);
#else
  double power, rest;
  exponential_parts(x < -708.0 ? -708.0 : x, power, rest);
  return x < -708.0 ? 0.0 : power * rest + power;
#endif
}

// exp(x) - 1 for x up to 709.
ALTMIN_HOST_DEVICE inline double exponential_less_one(double x) {
#if defined(__CUDA_ARCH__)
  return expm1(x);
#else
  double power, rest;
  exponential_parts(x < -708.0 ? -708.0 : x, power, rest);
  return power * rest + (power - 1.0);
#endif
}

// log(x) for x from the smallest normal number on, and NaN for NaN; undefined for all other x.
ALTMIN_HOST_DEVICE inline double logarithm(double x) {
#if defined(__CUDA_ARCH__)
  return log(x);
#else
  // x = 2^n m with m from sqrt(1/2) to sqrt(2), and log m = 2 artanh s.
  const uint64_t bits = bits_of(x);
  const uint64_t biased = (bits + (0x3ff0000000000000u - 0x3fe6a09e667f3bcdu)) >> 52;
  const double n = from_bits(0x4330000000000000u | biased) - (0x1p52 + 1023.0);
  const double m = from_bits(bits - ((biased - 1023) << 52));
  const double s = (m - 1.0) / (m + 1.0);
  const double z = s * s;
  double p = 2.0 / 21.0;
  p = p * z + 2.0 / 19.0;
  p = p * z + 2.0 / 17.0;
  p = p * z + 2.0 / 15.0;
  p = p * z + 2.0 / 13.0;
  p = p * z + 2.0 / 11.0;
  p = p * z + 2.0 / 9.0;
  p = p * z + 2.0 / 7.0;
  p = p * z + 2.0 / 5.0;
  p = p * z + 2.0 / 3.0;
  const double result = n * log_2_high + (2.0 * s + (s * z * p + n * log_2_low));
  return x == x ? result : x;
#endif
}

}  // namespace ALTMIN_ISA

}  // namespace altmin
