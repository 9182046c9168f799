#include "ops/convolution_weight_gradient.h"

#include "geometry.h"
#include "run.h"

namespace altmin {
namespace {

void convolution_weight_gradient(const Tensor& displacement, const Tensor& weight, const Tensor& input,
                                 const Tensor& winner, const Tensor& input_displacement,
                                 const Tensor& weight_gradient, const Tensor& bias_gradient,
                                 const Tensor& scalars, const Tensor& below, py::handle padding,
                                 py::handle pool, const Tensor& guard) {
  Call call;
  Geometry geometry;
  call.takes_dtype_of("displacement", displacement);
  call.in("input", input, geometry.input());
  call.in("weight", weight, geometry.weight());
  const ConvolutionShape shape = geometry.shape("input", padding, pool);
  call.in("displacement", displacement, geometry.code());
  call.in("winner", winner, geometry.code(), uint8 | optional);
  call.in("input_displacement", input_displacement, geometry.input(), optional);
  call.out("weight_gradient", weight_gradient, geometry.weight(), optional);
  call.out("bias_gradient", bias_gradient, {shape.outputs}, optional);
  call.in_out("scalars", scalars, {code_scalar_count}, float64);
  call.in("below", below, {code_scalar_count}, float64 | optional);
  call.in_out("guard", guard, {1}, float64 | optional);
  geometry.check_winner(winner);
  ALTMIN_RUN(convolution_weight_gradient, call,
             ConvolutionWeightGradient<T>{shape, displacement, winner, weight, input_displacement, input,
                                          weight_gradient, bias_gradient, scalars, below, guard});
}

ALTMIN_REGISTER(convolution_weight_gradient)

}  // namespace
}  // namespace altmin
