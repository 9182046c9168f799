#include "ops/memory_update.h"

#include "run.h"

namespace altmin {
namespace {

void memory_update(const Tensor& activation, const Tensor& code, const Tensor& gram, const Tensor& cross,
                   const Tensor& scalars, py::handle subtract, py::handle upper, const Tensor& gram_before,
                   const Tensor& cross_before) {
  Size batch, n_in, n_out, n_gram;
  Call call;
  call.in("activation", activation, {batch, n_in});
  call.in("code", code, {batch, n_out});
  call.in_out("gram", gram, {n_gram, n_gram});
  if (n_gram != n_in && n_gram != n_in + 1)
    raise_value_error("gram must have as many rows as activation has columns, ", n_in.value,
                      ", or one more for the bias, but has shape (", n_gram.value, ", ", n_gram.value, ").");
  call.in_out("cross", cross, {n_out, n_gram});
  call.in("scalars", scalars, {memory_scalar_count}, float64);
  call.in("gram_before", gram_before, {n_gram, n_gram}, optional);
  call.in("cross_before", cross_before, {n_out, n_gram}, optional);
  const bool takes_out = flag("subtract", subtract);
  const bool upper_only = flag("upper", upper);
  ALTMIN_RUN(memory_update, call,
             MemoryUpdate<T>{batch, n_in, n_out, n_gram, activation, code, gram, cross, scalars, takes_out,
                             upper_only, gram_before, cross_before});
}

ALTMIN_REGISTER(memory_update)

}  // namespace
}  // namespace altmin
