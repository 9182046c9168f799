// Pointwise activations sigma, and the one place where an activation is turned into a compile-time type.
//
// Each activation has
//   value(c)                       sigma(c)
//   derivative(c)                  sigma'(c), by convention 0 at the kink of relu
//   difference(c0, delta, unit)    (sigma(c0 - unit delta) - sigma(c0)) / unit, without cancellation
//
// The derivative of a sign is a surrogate: 1; 1 where |c| <= 1, else 0; that of the tanh below the sign; or 0.
//
// The difference carries the signal to the layers below: after a few layers a code moves by less than one unit in the
// last place of its value, so the difference of two activations would be noise.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>

#include "elementary.h"
#include "platform.h"

namespace altmin {

enum class Activation : int {
  identity,
  relu,
  leaky_relu,
  elu,
  tanh,
  sigmoid,
  gelu,
  gelu_tanh,
  silu,
  softplus,
  sign,
  sign_clipped,
  sign_of_tanh,
  sign_none
};

inline constexpr const char* activation_names[] = {
    "identity",  "relu", "leaky_relu", "elu",  "tanh",         "sigmoid",      "gelu",
    "gelu_tanh", "silu", "softplus",   "sign", "sign_clipped", "sign_of_tanh", "sign_none"};

// Whether an activation never falls and has no jump, so that the largest of several codes has the largest activation.
enum class Monotone { no, yes, unless_negative };  // the parameter

inline constexpr Monotone monotone[] = {Monotone::yes,
                                        Monotone::yes,
                                        Monotone::unless_negative,
                                        Monotone::unless_negative,
                                        Monotone::yes,
                                        Monotone::yes,
                                        Monotone::no,
                                        Monotone::no,
                                        Monotone::no,
                                        Monotone::yes,
                                        Monotone::no,
                                        Monotone::no,
                                        Monotone::no,
                                        Monotone::no};
static_assert(std::size(monotone) == std::size(activation_names));

inline bool is_monotone(Activation kind, double parameter) {
  const Monotone answer = monotone[static_cast<int>(kind)];
  return answer == Monotone::yes || (answer == Monotone::unless_negative && parameter >= 0);
}

inline namespace ALTMIN_ISA {

ALTMIN_HOST_DEVICE inline double exponential(double x) { return std::exp(x); }

// Without branches, so that loops over it vectorise, which calls of libm would prevent. Cody-Waite reduction and a
// polynomial of degree 6; error below 2 units in the last place; saturates instead of overflowing.
ALTMIN_HOST_DEVICE inline float exponential(float x) {
#if defined(__CUDA_ARCH__)
  return expf(x);
#else
  x = x > 88.0f ? 88.0f : x;
  x = x < -87.0f ? -87.0f : x;
  const float rounder = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const float shifted = x * 1.44269504088896341f + rounder;
  const float n = shifted - rounder;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  int32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = static_cast<int32_t>((static_cast<uint32_t>(bits) + 127u) << 23);
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
#endif
}

ALTMIN_HOST_DEVICE inline double hyperbolic_tangent(double x) {
#if defined(__CUDA_ARCH__)
  return tanh(x);
#else
  const double less_one = exponential_less_one(x < 0.0 ? 2.0 * x : -2.0 * x);
  const double magnitude = -less_one / (less_one + 2.0);
  return x < 0.0 ? -magnitude : magnitude;
#endif
}

ALTMIN_HOST_DEVICE inline float hyperbolic_tangent(float x) {
#if defined(__CUDA_ARCH__)
  return tanhf(x);
#else
  const float magnitude = x < 0.0f ? -x : x;
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const float small = p * z * x + x;
  const float large = 1.0f - 2.0f / (exponential(2.0f * magnitude) + 1.0f);
  return magnitude < 0.625f ? small : (x < 0.0f ? -large : large);
#endif
}

// The logistic function at x, and at -x. By e^-|x|, which neither overflows nor saturates.
template <typename T>
struct Logistic {
  T at, opposite;
  ALTMIN_HOST_DEVICE explicit Logistic(T x) {
    const T fall = exponential_to_zero(x < T(0) ? x : -x);
    const T larger = T(1) / (T(1) + fall);
    const T smaller = fall * larger;
    at = x < T(0) ? smaller : larger;
    opposite = x < T(0) ? larger : smaller;
  }
};

template <typename T>
ALTMIN_HOST_DEVICE inline T logistic(T x) {
  return Logistic<T>(x).at;
}

// (1 - e^-|d|) / unit with d = unit delta, also where d or the unit is no normal number.
template <typename T>
ALTMIN_HOST_DEVICE inline T decay(T d, T delta, T unit) {
  const T magnitude = d < T(0) ? -d : d;
  const T share = -exponential_less_one(-magnitude) / unit;
  return magnitude < std::numeric_limits<T>::epsilon() ? (delta < T(0) ? -delta : delta) : share;
}

// (logistic(x - d) - logistic(x)) / unit with d = unit delta: of two values a and b it is a (1 - b) (1 - e^-|d|), a the
// larger one.
template <typename T>
ALTMIN_HOST_DEVICE inline T logistic_difference(const Logistic<T>& before, const Logistic<T>& after, T d,
                                                T delta, T unit) {
  const T rest = decay(d, delta, unit);
  const T product = delta < T(0) ? after.at * before.opposite : -before.at * after.opposite;
  return product * rest;
}

// The density of the normal distribution.
template <typename T>
ALTMIN_HOST_DEVICE inline T normal_density(T c) {
  return T(0.39894228040143267794) * exponential_to_zero(-c * c / T(2));
}

// The distribution function below c, with the density.
template <typename T>
struct Normal {
  T below, density;
  ALTMIN_HOST_DEVICE explicit Normal(T c) {
    const T bell = exponential_to_zero(-c * c / T(2));
    density = T(0.39894228040143267794) * bell;
#if defined(__CUDA_ARCH__)
    below = (T(1) + erf(c * T(0.70710678118654752440))) / T(2);
#else
    const T tail = bell * normal_tail_over_bell(c < T(0) ? -c : c);
    below = c < T(0) ? tail : T(1) - tail;
#endif
  }
};

// For displacements, times the sharpness of the bend, below this bound, the two-point Gauss rule of sigma' is exact
// up to rounding; above it, the plain difference loses only few digits. Across a kink at zero the rule does not hold,
// but there both activations are as small as the displacement, and the plain difference is exact.
template <typename T>
struct SmallDisplacement;
template <>
struct SmallDisplacement<float> {
  static constexpr float value = 0.1f;
};
template <>
struct SmallDisplacement<double> {
  static constexpr double value = 1e-3;
};

template <typename T, typename Self>
struct Smooth {
  static constexpr bool kink_at_zero = false;
  ALTMIN_HOST_DEVICE T sharpness() const { return T(1); }
  ALTMIN_HOST_DEVICE T difference(T c0, T delta, T unit) const {
    const Self& self = static_cast<const Self&>(*this);
    const T d = unit * delta;
    const T magnitude = d < T(0) ? -d : d;
    const T node = T(0.21132486540518711775);  // (1 - 1/sqrt 3) / 2
    const T slope = (self.derivative(c0 - node * d) + self.derivative(c0 - (T(1) - node) * d)) / T(2);
    const T plain = (self.value(c0 - d) - self.value(c0)) / unit;
    const bool small = magnitude * self.sharpness() < SmallDisplacement<T>::value;
    const bool smooth = small & (!Self::kink_at_zero | ((c0 > T(0)) == (c0 - d > T(0))));
    return smooth ? -delta * slope : plain;
  }
};

template <typename T>
struct Identity {
  ALTMIN_HOST_DEVICE T value(T c) const { return c; }
  ALTMIN_HOST_DEVICE T derivative(T) const { return T(1); }
  ALTMIN_HOST_DEVICE T difference(T, T delta, T) const { return -delta; }
};

template <typename T>
struct Relu {
  ALTMIN_HOST_DEVICE T value(T c) const { return c <= T(0) ? T(0) : c; }
  ALTMIN_HOST_DEVICE T derivative(T c) const { return c > T(0) ? T(1) : T(0); }
  ALTMIN_HOST_DEVICE T difference(T c0, T delta, T unit) const {
    const T height = c0 == T(0) ? c0 : c0 / unit;  // no 0 / 0 if the unit underflows
    const T floor = -height;                       // an active unit cannot fall below zero
    const T active = -delta < floor ? floor : -delta;
    const T rise = -delta + height;
    const T inactive = rise <= T(0) ? T(0) : rise;
    return c0 > T(0) ? active : inactive;
  }
};

template <typename T>
struct LeakyRelu {
  T slope;
  ALTMIN_HOST_DEVICE T value(T c) const { return c > T(0) ? c : slope * c; }
  ALTMIN_HOST_DEVICE T derivative(T c) const { return c > T(0) ? T(1) : slope; }
  ALTMIN_HOST_DEVICE T difference(T c0, T delta, T unit) const {
    const T c = c0 - unit * delta;
    const T before = c0 > T(0) ? T(1) : slope;
    const T after = c > T(0) ? T(1) : slope;
    const T bend = after == before ? T(0) : (after - before) * (c0 / unit);  // instead of 0 times infinity
    return c == c ? bend - after * delta : c;                                // a NaN is on neither side
  }
};

template <typename T>
struct Elu : Smooth<T, Elu<T>> {
  static constexpr bool kink_at_zero = true;
  T alpha;
  ALTMIN_HOST_DEVICE explicit Elu(T alpha_) : alpha(alpha_) {}
  ALTMIN_HOST_DEVICE T value(T c) const {
    return c > T(0) ? c : alpha * exponential_less_one(c > T(0) ? T(0) : c);
  }
  ALTMIN_HOST_DEVICE T derivative(T c) const {
    return c > T(0) ? T(1) : alpha * exponential_to_zero(c > T(0) ? T(0) : c);
  }
};

template <typename T>
struct Tanh {
  ALTMIN_HOST_DEVICE T value(T c) const { return hyperbolic_tangent(c); }
  ALTMIN_HOST_DEVICE T derivative(T c) const {
    const T a = hyperbolic_tangent(c);
    return T(1) - a * a;
  }
  // tanh x - tanh y = tanh(x - y) (1 - tanh x tanh y)
  ALTMIN_HOST_DEVICE T difference(T c0, T delta, T unit) const {
    const T d = unit * delta;
    const T step = d * d < std::numeric_limits<T>::epsilon() ? delta : hyperbolic_tangent(d) / unit;
    return -step * (T(1) - hyperbolic_tangent(c0) * hyperbolic_tangent(c0 - d));
  }
};

template <typename T>
struct Sigmoid {
  ALTMIN_HOST_DEVICE T value(T c) const { return logistic(c); }
  // Without the difference of one and sigma(c), of which float has nothing left beyond a code of 17.
  ALTMIN_HOST_DEVICE T derivative(T c) const {
    const T fall = exponential_to_zero(c < T(0) ? c : -c);
    return fall / ((T(1) + fall) * (T(1) + fall));
  }
  ALTMIN_HOST_DEVICE T difference(T c0, T delta, T unit) const {
    const T d = unit * delta;
    return logistic_difference(Logistic<T>(c0), Logistic<T>(c0 - d), d, delta, unit);
  }
};

template <typename T>
struct Gelu {
  ALTMIN_HOST_DEVICE T value(T c) const { return c * Normal<T>(c).below; }
  ALTMIN_HOST_DEVICE T derivative(T c) const {
    const Normal<T> normal(c);
    return normal.below + c * normal.density;
  }
  // c1 F(c1) - c0 F(c0) = c0 (F(c1) - F(c0)) - d F(c1). For small d the difference of F is a Taylor series about the
  // middle, whose even terms are Hermite polynomials times the density.
  ALTMIN_HOST_DEVICE T difference(T c0, T delta, T unit) const {
    constexpr T small = sizeof(T) == 4 ? T(0.3) : T(0.01);
    const T d = unit * delta, square = d * d;
    const T after = Normal<T>(c0 - d).below;
    const T middle = c0 - d / T(2), m = middle * middle;
    const T fourth = (m - T(6)) * m + T(3);
    const T series = T(1) + square * ((m - T(1)) / T(24) + square * fourth / T(1920));
    const T near = delta * normal_density(middle) * series;
    const T far = (Normal<T>(c0).below - after) / unit;
    const T below = square < small * small ? (m < T(200) ? near : T(0)) : far;
    return -c0 * below - delta * after;
  }
};

// Gelu with the normal distribution function approximated through tanh: (1 + tanh x) / 2 is the logistic function
// of 2 x.
template <typename T>
struct GeluTanh {
  static constexpr double outer = 2 * 0.79788456080286535588, cubic = 0.044715;  // outer = 2 sqrt(2 / pi)
  // From which on the logistic function is 0 or 1, so that a cube cannot overflow.
  ALTMIN_HOST_DEVICE static T bounded(T c) { return c < T(-32) ? T(-32) : (c > T(32) ? T(32) : c); }
  ALTMIN_HOST_DEVICE static Logistic<T> gate(T c) { return Logistic<T>(T(outer) * (c + T(cubic) * c * c * c)); }
  ALTMIN_HOST_DEVICE T value(T c) const { return c * gate(bounded(c)).at; }
  ALTMIN_HOST_DEVICE T derivative(T c) const {
    const T b = bounded(c);
    const Logistic<T> s = gate(b);
    return s.at + b * s.at * s.opposite * T(outer) * (T(1) + T(3 * cubic) * b * b);
  }
  ALTMIN_HOST_DEVICE T difference(T c0, T delta, T unit) const {
    const T d = unit * delta, before = bounded(c0), after = bounded(c0 - d);
    const Logistic<T> s0 = gate(before), s1 = gate(after);
    const T slope = T(outer) * (T(1) + T(cubic) * (before * before + before * after + after * after));
    return c0 * logistic_difference(s0, s1, d * slope, delta * slope, unit) - delta * s1.at;
  }
};

template <typename T>
struct Silu {
  ALTMIN_HOST_DEVICE T value(T c) const { return c * logistic(c); }
  ALTMIN_HOST_DEVICE T derivative(T c) const {
    const Logistic<T> s(c);
    return s.at * (T(1) + c * s.opposite);
  }
  ALTMIN_HOST_DEVICE T difference(T c0, T delta, T unit) const {
    const T d = unit * delta;
    const Logistic<T> s0(c0), s1(c0 - d);
    return c0 * logistic_difference(s0, s1, d, delta, unit) - delta * s1.at;
  }
};

// log(1 + exp(beta c)) / beta; the identity where beta c exceeds 20, as in torch.
template <typename T>
struct Softplus {
  T beta;
  ALTMIN_HOST_DEVICE explicit Softplus(T beta_) : beta(beta_) {}
  ALTMIN_HOST_DEVICE T value(T c) const {
    const T x = beta * c;
    const T magnitude = x < T(0) ? -x : x;
    const T soft = (x > T(0) ? x : T(0)) + logarithm_of_one_plus(exponential_to_zero(-magnitude));
    return x > T(20) ? c : soft / beta;
  }
  ALTMIN_HOST_DEVICE T derivative(T c) const { return beta * c > T(20) ? T(1) : logistic(beta * c); }
  // With s the derivative at the larger code, it is +-log(1 - s (1 - e^-|beta d|)) / beta; a plain difference
  // where that nears log 0.
  ALTMIN_HOST_DEVICE T difference(T c0, T delta, T unit) const {
    const T d = unit * delta, c1 = c0 - d, x = beta * d;
    const T magnitude = x < T(0) ? -x : x;
    const T s = derivative(delta < T(0) ? c1 : c0), sign = delta < T(0) ? T(-1) : T(1);
    const T logarithm = logarithm_of_one_plus(s * exponential_less_one(-magnitude)) / (beta * unit);
    const T near = magnitude < std::numeric_limits<T>::epsilon() ? -s * delta : sign * logarithm;
    const T far = (value(c1) - value(c0)) / unit;
    return magnitude < T(0.5) ? near : far;
  }
};

// -1 where c <= 0, and +1 where c > 0.
template <typename T>
struct Sign {
  ALTMIN_HOST_DEVICE T value(T c) const { return c > T(0) ? T(1) : (c <= T(0) ? T(-1) : c); }
  ALTMIN_HOST_DEVICE T derivative(T) const { return T(1); }
  ALTMIN_HOST_DEVICE T difference(T c0, T delta, T unit) const {
    const T jump = value(c0 - unit * delta) - value(c0);
    // Not jump / unit, for a loop to divide once; and not infinite, for no jump to stay none if the unit underflows.
    const T inverse = T(1) / unit, largest = std::numeric_limits<T>::max();
    return jump * (inverse > largest ? largest : inverse);
  }
};

template <typename T>
struct SignClipped : Sign<T> {
  ALTMIN_HOST_DEVICE T derivative(T c) const { return (c >= T(-1)) & (c <= T(1)) ? T(1) : T(0); }
};

template <typename T>
struct SignOfTanh : Sign<T> {
  ALTMIN_HOST_DEVICE T derivative(T c) const { return Tanh<T>{}.derivative(c); }
};

template <typename T>
struct SignNone : Sign<T> {
  ALTMIN_HOST_DEVICE T derivative(T) const { return T(0); }
};

// Calls body with the activation as a compile-time type. `parameter` is leaky_relu's slope, elu's
// alpha or softplus's beta.
template <typename T, typename Body>
void dispatch_activation(Activation kind, T parameter, Body&& body) {
  switch (kind) {
    case Activation::identity: return body(Identity<T>{});
    case Activation::relu: return body(Relu<T>{});
    case Activation::leaky_relu: return body(LeakyRelu<T>{parameter});
    case Activation::elu: return body(Elu<T>{parameter});
    case Activation::tanh: return body(Tanh<T>{});
    case Activation::sigmoid: return body(Sigmoid<T>{});
    case Activation::gelu: return body(Gelu<T>{});
    case Activation::gelu_tanh: return body(GeluTanh<T>{});
    case Activation::silu: return body(Silu<T>{});
    case Activation::softplus: return body(Softplus<T>{parameter});
    case Activation::sign: return body(Sign<T>{});
    case Activation::sign_clipped: return body(SignClipped<T>{});
    case Activation::sign_of_tanh: return body(SignOfTanh<T>{});
    case Activation::sign_none: return body(SignNone<T>{});
  }
}

}  // namespace ALTMIN_ISA
}  // namespace altmin
