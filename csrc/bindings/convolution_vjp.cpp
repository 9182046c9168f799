#include "ops/convolution_vjp.h"

#include "geometry.h"
#include "run.h"

namespace altmin {
namespace {

void convolution_vjp(const Tensor& displacement, const Tensor& weight, const Tensor& winner,
                     const Tensor& pulled_back, py::handle padding, py::handle pool) {
  Call call;
  Geometry geometry;
  call.takes_dtype_of("displacement", displacement);
  call.out("pulled_back", pulled_back, geometry.input());
  call.in("weight", weight, geometry.weight());
  const ConvolutionShape shape = geometry.shape("pulled_back", padding, pool);
  call.in("displacement", displacement, geometry.code());
  call.in("winner", winner, geometry.code(), uint8 | optional);
  geometry.check_winner(winner);
  ALTMIN_RUN(convolution_vjp, call, ConvolutionVjp<T>{shape, displacement, winner, weight, pulled_back});
}

ALTMIN_REGISTER(convolution_vjp)

}  // namespace
}  // namespace altmin
