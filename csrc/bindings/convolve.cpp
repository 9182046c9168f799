#include "ops/convolve.h"

#include "geometry.h"
#include "run.h"

namespace altmin {
namespace {

void convolve(const Tensor& input, const Tensor& weight, const Tensor& bias, const Tensor& mask,
              const Tensor& code, const Tensor& activation, const Tensor& winner, const Tensor& gap,
              py::handle padding, py::handle pool, const Sigma& sigma, const Tensor& guard) {
  Call call;
  Geometry geometry;
  call.in("input", input, geometry.input());
  call.in("weight", weight, geometry.weight());
  const ConvolutionShape shape = geometry.shape("input", padding, pool);
  call.in("bias", bias, {shape.outputs}, optional);
  call.in("mask", mask, geometry.code(), optional);
  call.out("code", code, geometry.code());
  call.out("activation", activation, geometry.code()).may_be(code);
  call.out("winner", winner, geometry.code(), uint8 | optional);
  call.out("gap", gap, geometry.code(), optional);
  call.in_out("guard", guard, {1}, float64 | optional);
  if (shape.pool == 1 && (winner || gap))
    raise_value_error(winner ? "winner" : "gap", " must be None where pool is 1.");
  if (shape.pool > 1 && !is_monotone(sigma.kind, sigma.parameter))
    raise_value_error("sigma must be monotone where pool is more than 1, but is ",
                      activation_names[static_cast<int>(sigma.kind)], ".");
  ALTMIN_RUN(convolve, call,
             Convolve<T>{shape, input, weight, bias, mask, code, activation, winner, gap, sigma.kind,
                         T(sigma.parameter), guard});
}

ALTMIN_REGISTER(convolve)

}  // namespace
}  // namespace altmin
