// What the weight updates have in common: a row of scalars for each tensor, and which flag of the guard is its own.
#pragma once

#include "ops/scalars.h"
#include "run.h"

namespace altmin {

class UpdateFlags {
 public:
  Size count;  // of all flags

  UpdateFlags(Call& call, const TensorList& weights, const Tensor& scalars, const Tensor& guard,
              const Tensor& guard_index)
      : guard_(guard), index_(guard_index) {
    const auto tensors = static_cast<int64_t>(weights.size());
    call.in("scalars", scalars, {tensors, update_scalar_count}, float64);
    call.in_out("guard", guard, {count}, float64 | optional);
    call.in("guard_index", guard_index, {tensors}, int64 | optional | on_cpu);
    if (!guard) count.value = 0;
    if (guard && count == 0 && tensors > 0)
      raise_value_error("guard must have at least one flag, but has none.");
    for (int64_t i = 0; guard && guard_index && i < tensors; ++i) {
      const int64_t index = guard_index.data<int64_t>()[i];
      if (index < 0 || index >= count)
        raise_value_error("guard_index must lie in [0, ", count.value, "), but guard_index[", i, "] is ", index,
                          ".");
    }
  }
  // Of a tensor; without an index all have the first.
  double* operator[](size_t i) const {
    if (count == 0) return nullptr;
    return guard_.data<double>() + (index_ ? index_.data<int64_t>()[i] : 0);
  }

 private:
  const Tensor &guard_, &index_;
};

}  // namespace altmin
