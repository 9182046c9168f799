#include "ops/bcd_columns.h"

#include "run.h"

namespace altmin {
namespace {

void bcd_columns(const Tensor& weight, const Tensor& gram, const Tensor& cross, const Tensor& scalars,
                 py::handle sweeps, py::handle has_bias, py::handle nonnegative, py::handle from_zero) {
  Size rows, columns;
  Call call;
  call.in_out("weight", weight, {rows, columns});
  call.in("gram", gram, {columns, columns});
  call.in("cross", cross, {rows, columns});
  call.in("scalars", scalars, {memory_scalar_count}, float64);
  const int times = count("sweeps", sweeps);
  const bool bias = flag("has_bias", has_bias), clips = flag("nonnegative", nonnegative),
             starts_at_zero = flag("from_zero", from_zero);
  ALTMIN_RUN(bcd_columns, call,
             BcdColumns<T>{rows, columns, weight, gram, cross, scalars, times, bias, clips, starts_at_zero});
}

ALTMIN_REGISTER(bcd_columns)

}  // namespace
}  // namespace altmin
