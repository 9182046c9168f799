#include "activation_loops.h"

#include "ops/backend.h"

ALTMIN_WIDE_PART;

// Everything is inlined into the loops, however long it is: a single call would keep a loop from being vectorised.
#define ALTMIN_FLATTEN __attribute__((flatten))

namespace altmin::cpu::ALTMIN_ISA {

template <typename T>
void activation_values(Activation kind, T parameter, const T* codes, T* values, int64_t n) {
  dispatch_activation<T>(kind, parameter, [=](auto sigma) ALTMIN_FLATTEN {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) values[i] = sigma.value(codes[i]);
  });
}

template <typename T>
void activation_derivatives(Activation kind, T parameter, const T* codes, T* derivatives, int64_t n) {
  dispatch_activation<T>(kind, parameter, [=](auto sigma) ALTMIN_FLATTEN {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) derivatives[i] = sigma.derivative(codes[i]);
  });
}

template <typename T>
void activation_falls(Activation kind, T parameter, const T* codes, const T* displacement, T unit, T* values,
                      T* differences, int64_t n) {
  dispatch_activation<T>(kind, parameter, [=](auto sigma) ALTMIN_FLATTEN {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const T code = codes[i], delta = displacement[i];
      values[i] = sigma.value(code - unit * delta);
      differences[i] = sigma.difference(code, delta, unit);
    }
  });
}

template <typename T>
void activation_moves(Activation kind, T parameter, const T* codes, const T* moved, T unit, T* derivatives,
                      T* differences, int64_t n) {
  dispatch_activation<T>(kind, parameter, [=](auto sigma) ALTMIN_FLATTEN {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      derivatives[i] = sigma.derivative(codes[i] + unit * moved[i]);
      differences[i] = sigma.difference(codes[i], -moved[i], unit);
    }
  });
}

#define ALTMIN_INSTANTIATE_ACTIVATIONS(T)                                                \
  template void activation_values(Activation, T, const T*, T*, int64_t);                 \
  template void activation_derivatives(Activation, T, const T*, T*, int64_t);            \
  template void activation_falls(Activation, T, const T*, const T*, T, T*, T*, int64_t); \
  template void activation_moves(Activation, T, const T*, const T*, T, T*, T*, int64_t);
ALTMIN_INSTANTIATE_ACTIVATIONS(float)
ALTMIN_INSTANTIATE_ACTIVATIONS(double)

}  // namespace altmin::cpu::ALTMIN_ISA
