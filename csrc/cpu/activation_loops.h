// Activations of whole arrays, n numbers long. They are compiled once for all ops: each is a loop for every activation.
// What is written may be what is read.
#pragma once

#include <cstdint>

#include "ops/activation.h"

namespace altmin::cpu::ALTMIN_ISA {

// Elements handled at a time by ops of several loops: their intermediate results stay in the first-level cache.
inline constexpr int64_t activation_chunk = 512;

// values[i] = sigma(codes[i])
template <typename T>
void activation_values(Activation kind, T parameter, const T* codes, T* values, int64_t n);

// derivatives[i] = sigma'(codes[i])
template <typename T>
void activation_derivatives(Activation kind, T parameter, const T* codes, T* derivatives, int64_t n);

// values[i] = sigma(codes[i] - unit displacement[i]),  differences[i] = (values[i] - sigma(codes[i])) / unit
template <typename T>
void activation_falls(Activation kind, T parameter, const T* codes, const T* displacement, T unit, T* values,
                      T* differences, int64_t n);

// The same of codes[i] + unit moved[i], with derivatives[i] = sigma' there.
template <typename T>
void activation_moves(Activation kind, T parameter, const T* codes, const T* moved, T unit, T* derivatives,
                      T* differences, int64_t n);

}  // namespace altmin::cpu::ALTMIN_ISA
