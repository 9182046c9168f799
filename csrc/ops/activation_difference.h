// activation_difference: the change of an activation where its code moves, without cancellation
//
//   point      = code + unit moved
//   difference = (sigma(code + unit moved) - sigma(code)) / unit
//
// Nothing may overlap.
#pragma once

#include <cstdint>

#include "activation.h"
#include "backend.h"

namespace altmin {

template <typename T>
struct ActivationDifference {
  int64_t size;
  const T* code;
  const T* moved;
  const double* unit;  // one number
  T* point;            // out, or null
  T* difference;       // out
  Activation kind;
  T parameter;
};

}  // namespace altmin

ALTMIN_WIDE_OP(activation_difference, void, ActivationDifference)
