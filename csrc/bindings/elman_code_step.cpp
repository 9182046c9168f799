#include "ops/elman_code_step.h"

#include "ops/lanes.h"
#include "run.h"

namespace altmin {
namespace {

void elman_code_step(const Tensor& hidden, const Tensor& x, const Tensor& recurrent_weight,
                     const Tensor& output_weight, const Tensor& displacement, const Tensor& residual,
                     const Tensor& cross, const Tensor& gram, const Tensor& output_gradient,
                     const Tensor& output, const Tensor& scalars, const Tensor& above, py::handle iterations,
                     const Sigma& sigma, const Tensor& guard) {
  Size batch, steps, n_in, width, n_out;
  Call call;
  call.takes_dtype_of("hidden", hidden);
  call.in("x", x, {batch, steps, n_in});
  call.in("recurrent_weight", recurrent_weight, {width, width});
  call.in("output_weight", output_weight, {n_out, steps * width});
  call.in("hidden", hidden, {groups_of(batch), steps, width, lanes});
  call.in("displacement", displacement, {batch, n_out});
  call.in("residual", residual, {batch, n_out}, output_gradient ? ordinary : optional);
  const int64_t inputs = width + n_in + 1;
  call.out("cross", cross, {width, inputs});
  call.out("gram", gram, {inputs, inputs}, optional);
  call.out("output_gradient", output_gradient, {n_out, steps * width}, optional);
  call.out("output", output, {batch, steps * width}, optional);
  call.in_out("scalars", scalars, {code_scalar_count}, float64);
  call.in("above", above, {code_scalar_count}, float64);
  call.in_out("guard", guard, {1}, float64 | optional);
  const int times = count("iterations", iterations);
  ALTMIN_RUN(elman_code_step, call,
             ElmanCodeStep<T>{batch * steps * width,
                              batch,
                              steps,
                              n_in,
                              width,
                              n_out,
                              hidden,
                              x,
                              recurrent_weight,
                              output_weight,
                              displacement,
                              residual,
                              cross,
                              gram,
                              output_gradient,
                              output,
                              scalars,
                              above,
                              times,
                              sigma.kind,
                              T(sigma.parameter),
                              guard});
}

ALTMIN_REGISTER(elman_code_step)

}  // namespace
}  // namespace altmin
