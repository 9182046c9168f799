#include "ops/elman_encode.h"

#include "ops/lanes.h"
#include "run.h"

namespace altmin {
namespace {

void elman_encode(const Tensor& x, const Tensor& input_weight, const Tensor& recurrent_weight,
                  const Tensor& input_bias, const Tensor& recurrent_bias, const Tensor& output_weight,
                  const Tensor& hidden, const Tensor& product, const Sigma& sigma) {
  Size batch, steps, n_in, width, n_out;
  Call call;
  call.in("x", x, {batch, steps, n_in});
  call.in("recurrent_weight", recurrent_weight, {width, width});
  call.in("input_weight", input_weight, {width, n_in});
  call.in("input_bias", input_bias, {width}, optional);
  call.in("recurrent_bias", recurrent_bias, {width}, optional);
  call.in("output_weight", output_weight, {n_out, steps * width});
  call.out("hidden", hidden, {groups_of(batch), steps, width, lanes});
  call.out("product", product, {batch, n_out});
  ALTMIN_RUN(elman_encode, call,
             ElmanEncode<T>{batch, steps, n_in, width, n_out, x, input_weight, recurrent_weight, input_bias,
                            recurrent_bias, output_weight, hidden, product, sigma.kind, T(sigma.parameter)});
}

ALTMIN_REGISTER(elman_encode)

}  // namespace
}  // namespace altmin
