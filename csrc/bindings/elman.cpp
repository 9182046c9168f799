// Elman layers.
#include "ops/elman_code_step.h"
#include "ops/elman_encode.h"
#include "run.h"

namespace altmin {
namespace {

void elman_encode(const Tensor& x, const Tensor& input_weight, const Tensor& recurrent_weight,
                  const Tensor& input_bias, const Tensor& recurrent_bias, const Tensor& output_weight,
                  const Tensor& hidden, const Tensor& product, int kind, double parameter) {
  for (const Named& named :
       {Named{"x", x}, Named{"input_weight", input_weight}, Named{"recurrent_weight", recurrent_weight},
        Named{"output_weight", output_weight}, Named{"hidden", hidden}, Named{"product", product}})
    require(named.tensor, named.name);
  check_dimensions(x, "x", 3);
  check_dimensions(recurrent_weight, "recurrent_weight", 2);
  check_dimensions(output_weight, "output_weight", 2);
  const int64_t batch = x.shape(0), steps = x.shape(1), n_in = x.shape(2);
  const int64_t width = recurrent_weight.shape(0), n_out = output_weight.shape(0);
  const dlpack::Device device = device_of({{"x", x},
                                           {"input_weight", input_weight},
                                           {"recurrent_weight", recurrent_weight},
                                           {"input_bias", input_bias},
                                           {"recurrent_bias", recurrent_bias},
                                           {"output_weight", output_weight},
                                           {"hidden", hidden},
                                           {"product", product}});
  check_overlap({{"hidden", hidden}, {"product", product}}, {{"x", x},
                                                             {"input_weight", input_weight},
                                                             {"recurrent_weight", recurrent_weight},
                                                             {"input_bias", input_bias},
                                                             {"recurrent_bias", recurrent_bias},
                                                             {"output_weight", output_weight}});
  dispatch_dtype(x, "x", [&](auto zero) {
    using T = decltype(zero);
    check<T>(x, "x", {batch, steps, n_in});
    check<T>(recurrent_weight, "recurrent_weight", {width, width});
    check<T>(input_weight, "input_weight", {width, n_in});
    check<T>(input_bias, "input_bias", {width});
    check<T>(recurrent_bias, "recurrent_bias", {width});
    check<T>(output_weight, "output_weight", {n_out, steps * width});
    check<T>(hidden, "hidden", {groups_of(batch), steps, width, lanes});
    check<T>(product, "product", {batch, n_out});
    const ElmanEncode<T> arguments{batch,
                                   steps,
                                   n_in,
                                   width,
                                   n_out,
                                   x.data<T>(),
                                   input_weight.data<T>(),
                                   recurrent_weight.data<T>(),
                                   input_bias.data<T>(),
                                   recurrent_bias.data<T>(),
                                   output_weight.data<T>(),
                                   hidden.data<T>(),
                                   product.data<T>(),
                                   activation_kind(kind),
                                   static_cast<T>(parameter)};
    ALTMIN_RUN(elman_encode, device, arguments);
  });
}

void elman_code_step(const Tensor& hidden, const Tensor& x, const Tensor& recurrent_weight,
                     const Tensor& output_weight, const Tensor& displacement, const Tensor& residual,
                     const Tensor& cross, const Tensor& gram, const Tensor& output_gradient,
                     const Tensor& output, const Tensor& scalars, const Tensor& above, int iterations, int kind,
                     double parameter, const Tensor& guard) {
  for (const Named& named :
       {Named{"hidden", hidden}, Named{"x", x}, Named{"recurrent_weight", recurrent_weight},
        Named{"output_weight", output_weight}, Named{"displacement", displacement}, Named{"cross", cross},
        Named{"scalars", scalars}, Named{"above", above}})
    require(named.tensor, named.name);
  if (output_gradient) require(residual, "residual");
  check_dimensions(x, "x", 3);
  check_dimensions(recurrent_weight, "recurrent_weight", 2);
  check_dimensions(output_weight, "output_weight", 2);
  if (iterations < 1) raise_value_error("iterations must be at least 1, but is ", iterations, ".");
  check<double>(scalars, "scalars", {code_scalar_count});
  check<double>(above, "above", {code_scalar_count});
  check<double>(guard, "guard", {1});
  const int64_t batch = x.shape(0), steps = x.shape(1), n_in = x.shape(2);
  const int64_t width = recurrent_weight.shape(0), n_out = output_weight.shape(0), inputs = width + n_in + 1;
  const dlpack::Device device = device_of({{"hidden", hidden},
                                           {"x", x},
                                           {"recurrent_weight", recurrent_weight},
                                           {"output_weight", output_weight},
                                           {"displacement", displacement},
                                           {"residual", residual},
                                           {"cross", cross},
                                           {"gram", gram},
                                           {"output_gradient", output_gradient},
                                           {"output", output},
                                           {"scalars", scalars},
                                           {"above", above},
                                           {"guard", guard}});
  check_overlap({{"cross", cross},
                 {"gram", gram},
                 {"output_gradient", output_gradient},
                 {"output", output},
                 {"scalars", scalars},
                 {"guard", guard}},
                {{"hidden", hidden},
                 {"x", x},
                 {"recurrent_weight", recurrent_weight},
                 {"output_weight", output_weight},
                 {"displacement", displacement},
                 {"residual", residual},
                 {"above", above}});
  dispatch_dtype(hidden, "hidden", [&](auto zero) {
    using T = decltype(zero);
    check<T>(x, "x", {batch, steps, n_in});
    check<T>(recurrent_weight, "recurrent_weight", {width, width});
    check<T>(output_weight, "output_weight", {n_out, steps * width});
    check<T>(hidden, "hidden", {groups_of(batch), steps, width, lanes});
    check<T>(displacement, "displacement", {batch, n_out});
    check<T>(residual, "residual", {batch, n_out});
    check<T>(cross, "cross", {width, inputs});
    check<T>(gram, "gram", {inputs, inputs});
    check<T>(output_gradient, "output_gradient", {n_out, steps * width});
    check<T>(output, "output", {batch, steps * width});
    const ElmanCodeStep<T> arguments{batch * steps * width,
                                     batch,
                                     steps,
                                     n_in,
                                     width,
                                     n_out,
                                     hidden.data<T>(),
                                     x.data<T>(),
                                     recurrent_weight.data<T>(),
                                     output_weight.data<T>(),
                                     displacement.data<T>(),
                                     residual.data<T>(),
                                     cross.data<T>(),
                                     gram.data<T>(),
                                     output_gradient.data<T>(),
                                     output.data<T>(),
                                     scalars.data<CodeScalars>(),
                                     above.data<CodeScalars>(),
                                     iterations,
                                     activation_kind(kind),
                                     static_cast<T>(parameter),
                                     guard.data<double>()};
    ALTMIN_RUN(elman_code_step, device, arguments);
  });
}

const Registration elman_layers([](py::module_& module) {
  module.def("elman_encode", &elman_encode);
  module.def("elman_code_step", &elman_code_step);
});

}  // namespace
}  // namespace altmin
