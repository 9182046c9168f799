// Elementary functions. They have no branches and no calls, so that loops over them vectorise. Errors are below two
// units in the last place unless it is said otherwise. On a GPU they are CUDA's own.
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

// The same of float; x must lie in [-87, 88].
inline void exponential_parts(float x, float& power, float& rest) {
  const float rounder = 12582912.0f;
  const float shifted = x * 1.44269504088896341f + rounder;
  const float n = shifted - rounder;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  rest = p * r * r + r;
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 127u) << 23;
  std::memcpy(&power, &bits, sizeof power);
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

// The same for x up to 88; zero below -87.
ALTMIN_HOST_DEVICE inline float exponential_to_zero(float x) {
#if defined(__CUDA_ARCH__)
  return expf(x);
#else
  float power, rest;
  exponential_parts(x < -87.0f ? -87.0f : x, power, rest);
  return x < -87.0f ? 0.0f : power * rest + power;
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

// The same for x up to 88.
ALTMIN_HOST_DEVICE inline float exponential_less_one(float x) {
#if defined(__CUDA_ARCH__)
  return expm1f(x);
#else
  float power, rest;
  exponential_parts(x < -87.0f ? -87.0f : x, power, rest);
  return power * rest + (power - 1.0f);
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

// log(1 + x) for x in [0, 1]: 2 artanh s, with s up to 1 / 3.
ALTMIN_HOST_DEVICE inline double logarithm_of_one_plus(double x) {
#if defined(__CUDA_ARCH__)
  return log1p(x);
#else
  const double s = x / (2.0 + x);
  const double z = s * s;
  double p = 0.170565745029470292;
  p = p * z + 0.0831762094042915323;
  p = p * z + 0.121117920158200016;
  p = p * z + 0.133001622005653943;
  p = p * z + 0.15386630743249173;
  p = p * z + 0.181817400178122536;
  p = p * z + 0.22222224104933035;
  p = p * z + 0.285714285450419077;
  p = p * z + 0.400000000001893132;
  p = p * z + 0.666666666666661376;
  return s * z * p + 2.0 * s;
#endif
}

ALTMIN_HOST_DEVICE inline float logarithm_of_one_plus(float x) {
#if defined(__CUDA_ARCH__)
  return log1pf(x);
#else
  const float s = x / (2.0f + x);
  const float z = s * s;
  float p = 0.2440940337f;
  p = p * z + 0.2139426744f;
  p = p * z + 0.286206234f;
  p = p * z + 0.3999869481f;
  p = p * z + 0.6666667925f;
  return s * z * p + 2.0f * s;
#endif
}

// (1 - erf(t / sqrt 2)) / 2 over exp(-t t / 2), for t >= 0: what the tail of the normal distribution is of its bell.
// It is a polynomial of (t - 4) / (t + 4) over t + 4, fitted at Chebyshev's points; errors are below four units.
inline double normal_tail_over_bell(double t) {
  const double r = 1.0 / (t + 4.0);
  const double y = 1.0 - 8.0 * r;
  double p = 3.40331230864949465e-10;
  p = p * y - 1.19977820312530946e-10;
  p = p * y - 3.73064508186837028e-9;
  p = p * y - 5.8736267649871907e-10;
  p = p * y + 2.14276038434523559e-8;
  p = p * y + 1.78449277729814162e-8;
  p = p * y - 8.68664701599789276e-8;
  p = p * y - 1.59773961422392205e-7;
  p = p * y + 2.72462969511458721e-7;
  p = p * y + 1.02478510165527734e-6;
  p = p * y - 6.29836733849236905e-7;
  p = p * y - 5.92161104592397736e-6;
  p = p * y + 7.16658764119512099e-7;
  p = p * y + 3.51451119028376513e-5;
  p = p * y - 1.90824635141457105e-6;
  p = p * y - 2.31095017362774258e-4;
  p = p * y + 1.33344309411832544e-4;
  p = p * y + 1.63081846740990846e-3;
  p = p * y - 3.47969236704797363e-3;
  p = p * y - 7.54018896738631255e-3;
  p = p * y + 6.03965748909178723e-2;
  p = p * y - 0.186521857959636612;
  p = p * y + 0.387137400742214917;
  p = p * y - 0.6078966419718923;
  p = p * y + 0.755285130415751492;
  return p * r;
}

inline float normal_tail_over_bell(float t) {
  const float r = 1.0f / (t + 4.0f);
  const float y = 1.0f - 8.0f * r;
  float p = 2.118298426e-5f;
  p = p * y - 1.731082301e-6f;
  p = p * y - 2.155737763e-4f;
  p = p * y + 1.336533871e-4f;
  p = p * y + 1.622040106e-3f;
  p = p * y - 3.479954637e-3f;
  p = p * y - 7.53771716e-3f;
  p = p * y + 6.039664828e-2f;
  p = p * y - 0.1865221598f;
  p = p * y + 0.3871373939f;
  p = p * y - 0.6078966314f;
  p = p * y + 0.7552851305f;
  return p * r;
}

}  // namespace ALTMIN_ISA

}  // namespace altmin
