// activation_vjp: a gradient pulled back through an activation
//
//   out = sigma'(code) gradient
//
// `out` may be `gradient`; nothing else may overlap.
#pragma once

#include <cstdint>

#include "activation.h"
#include "backend.h"

namespace altmin {

template <typename T>
struct ActivationVjp {
  int64_t size;
  const T* code;
  const T* gradient;
  T* out;
  Activation kind;
  T parameter;
};

}  // namespace altmin

ALTMIN_WIDE_OP(activation_vjp, void, ActivationVjp)
