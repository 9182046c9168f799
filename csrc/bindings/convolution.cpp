// Batches of images and sequences, whose samples lie side by side: their layout, and convolutions of them.
#include "ops/convolution_vjp.h"
#include "ops/convolution_weight_gradient.h"
#include "ops/convolve.h"
#include "ops/deinterleave.h"
#include "ops/interleave.h"
#include "run.h"

namespace altmin {
namespace {

void interleave(const Tensor& rows, const Tensor& into) {
  require(rows, "rows");
  require(into, "lanes");
  check_dimensions(rows, "rows", 2);
  const dlpack::Device device = device_of({{"rows", rows}, {"lanes", into}});
  check_overlap({{"lanes", into}}, {{"rows", rows}});
  dispatch_dtype(rows, "rows", [&](auto zero) {
    using T = decltype(zero);
    const int64_t batch = rows.shape(0), width = rows.shape(1);
    check<T>(rows, "rows", {batch, width});
    check<T>(into, "lanes", {groups_of(batch), width, lanes});
    const Interleave<T> arguments{batch, width, rows.data<T>(), into.data<T>()};
    ALTMIN_RUN(interleave, device, arguments);
  });
}

void deinterleave(const Tensor& from, const Tensor& rows) {
  require(from, "lanes");
  require(rows, "rows");
  check_dimensions(rows, "rows", 2);
  const dlpack::Device device = device_of({{"lanes", from}, {"rows", rows}});
  check_overlap({{"rows", rows}}, {{"lanes", from}});
  dispatch_dtype(from, "lanes", [&](auto zero) {
    using T = decltype(zero);
    const int64_t batch = rows.shape(0), width = rows.shape(1);
    check<T>(rows, "rows", {batch, width});
    check<T>(from, "lanes", {groups_of(batch), width, lanes});
    const Deinterleave<T> arguments{batch, width, from.data<T>(), rows.data<T>()};
    ALTMIN_RUN(deinterleave, device, arguments);
  });
}

// Whether the largest of several codes has the largest activation.
bool is_monotone(Activation kind, double parameter) {
  switch (kind) {
    case Activation::identity:
    case Activation::relu:
    case Activation::tanh:
    case Activation::sigmoid:
    case Activation::softplus: return true;
    case Activation::leaky_relu:
    case Activation::elu: return parameter >= 0;
    default: return false;
  }
}

// The shapes of a convolution, from its weight and a tensor shaped like its input.
ConvolutionShape convolution_shape(const Named& images, const Tensor& weight, int64_t padding_height,
                                   int64_t padding_width, int64_t pool) {
  check_dimensions(images.tensor, images.name, 5);
  check_dimensions(weight, "weight", 4);
  const ConvolutionShape shape{images.tensor.shape(0), images.tensor.shape(1),
                               images.tensor.shape(2), images.tensor.shape(3),
                               weight.shape(0),        weight.shape(2),
                               weight.shape(3),        padding_height,
                               padding_width,          pool};
  if (padding_height < 0 || padding_height >= shape.kernel_height || padding_width < 0 ||
      padding_width >= shape.kernel_width)
    raise_value_error("padding must be at least 0 and smaller than the kernel, (", shape.kernel_height, ", ",
                      shape.kernel_width, "), but is (", padding_height, ", ", padding_width, ").");
  if (pool < 1 || pool > largest_pool)
    raise_value_error("pool must lie in [1, ", largest_pool, "], but is ", pool, ".");
  if (shape.convolved_height() < 1 || shape.convolved_width() < 1)
    raise_value_error("weight must be no larger than the padded images of ", images.name, ", whose shape is ",
                      images.tensor.describe_shape(), ", but has shape ", weight.describe_shape(), ".");
  return shape;
}

template <typename T>
void check_like_input(const Tensor& tensor, const char* name, const ConvolutionShape& s) {
  check<T>(tensor, name, {s.groups, s.inputs, s.height, s.width, lanes});
}

template <typename T>
void check_like_code(const Tensor& tensor, const char* name, const ConvolutionShape& s) {
  check<T>(tensor, name, {s.groups, s.outputs, s.code_height(), s.code_width(), lanes});
}

template <typename T>
void check_like_weight(const Tensor& tensor, const char* name, const ConvolutionShape& s) {
  check<T>(tensor, name, {s.outputs, s.inputs, s.kernel_height, s.kernel_width});
}

// The winners that a displacement belongs to.
void check_winner(const Tensor& winner, const ConvolutionShape& s) {
  check_like_code<uint8_t>(winner, "winner", s);
  if (!winner == (s.pool > 1))
    raise_value_error("winner must be ",
                      s.pool > 1 ? "given where pool is more than 1." : "None where pool is 1.");
}

void convolve(const Tensor& input, const Tensor& weight, const Tensor& bias, const Tensor& mask,
              const Tensor& code, const Tensor& activation, const Tensor& winner, const Tensor& gap,
              int64_t padding_height, int64_t padding_width, int64_t pool, int kind, double parameter,
              const Tensor& guard) {
  for (const Named& named :
       {Named{"input", input}, Named{"weight", weight}, Named{"code", code}, Named{"activation", activation}})
    require(named.tensor, named.name);
  const ConvolutionShape shape =
      convolution_shape({"input", input}, weight, padding_height, padding_width, pool);
  check<double>(guard, "guard", {1});
  const dlpack::Device device = device_of({{"input", input},
                                           {"weight", weight},
                                           {"bias", bias},
                                           {"mask", mask},
                                           {"code", code},
                                           {"activation", activation},
                                           {"winner", winner},
                                           {"gap", gap},
                                           {"guard", guard}});
  const bool in_place = code.data<char>() == activation.data<char>();
  check_overlap({{"code", code},
                 {"activation", in_place ? Tensor{} : activation},
                 {"winner", winner},
                 {"gap", gap},
                 {"guard", guard}},
                {{"input", input}, {"weight", weight}, {"bias", bias}, {"mask", mask}});
  check_like_code<uint8_t>(winner, "winner", shape);
  for (const Named& named : {Named{"winner", winner}, Named{"gap", gap}})
    if (pool == 1 && named.tensor) raise_value_error(named.name, " must be None where pool is 1.");
  const Activation sigma = activation_kind(kind);
  if (pool > 1 && !is_monotone(sigma, parameter))
    raise_value_error("sigma must be monotone where pool is more than 1, but is ", activation_names[kind], ".");
  dispatch_dtype(input, "input", [&](auto zero) {
    using T = decltype(zero);
    check_like_weight<T>(weight, "weight", shape);
    check_like_input<T>(input, "input", shape);
    check<T>(bias, "bias", {shape.outputs});
    for (const Named& named :
         {Named{"mask", mask}, Named{"code", code}, Named{"activation", activation}, Named{"gap", gap}})
      check_like_code<T>(named.tensor, named.name, shape);
    const Convolve<T> arguments{
        shape,          input.data<T>(), weight.data<T>(),          bias.data<T>(),
        mask.data<T>(), code.data<T>(),  activation.data<T>(),      winner.data<uint8_t>(),
        gap.data<T>(),  sigma,           static_cast<T>(parameter), guard.data<double>()};
    ALTMIN_RUN(convolve, device, arguments);
  });
}

void convolution_vjp(const Tensor& displacement, const Tensor& winner, const Tensor& weight,
                     const Tensor& pulled_back, int64_t padding_height, int64_t padding_width, int64_t pool) {
  for (const Named& named :
       {Named{"displacement", displacement}, Named{"weight", weight}, Named{"pulled_back", pulled_back}})
    require(named.tensor, named.name);
  check_readable(winner, "winner");
  const ConvolutionShape shape =
      convolution_shape({"pulled_back", pulled_back}, weight, padding_height, padding_width, pool);
  const dlpack::Device device = device_of(
      {{"displacement", displacement}, {"winner", winner}, {"weight", weight}, {"pulled_back", pulled_back}});
  check_overlap({{"pulled_back", pulled_back}},
                {{"displacement", displacement}, {"winner", winner}, {"weight", weight}});
  check_winner(winner, shape);
  dispatch_dtype(displacement, "displacement", [&](auto zero) {
    using T = decltype(zero);
    check_like_weight<T>(weight, "weight", shape);
    check_like_input<T>(pulled_back, "pulled_back", shape);
    check_like_code<T>(displacement, "displacement", shape);
    const ConvolutionVjp<T> arguments{shape, displacement.data<T>(), winner.data<uint8_t>(), weight.data<T>(),
                                      pulled_back.data<T>()};
    ALTMIN_RUN(convolution_vjp, device, arguments);
  });
}

void convolution_weight_gradient(const Tensor& displacement, const Tensor& winner, const Tensor& weight,
                                 const Tensor& input_displacement, const Tensor& input,
                                 const Tensor& weight_gradient, const Tensor& bias_gradient,
                                 const Tensor& scalars, const Tensor& below, int64_t padding_height,
                                 int64_t padding_width, int64_t pool, const Tensor& guard) {
  for (const Named& named : {Named{"displacement", displacement}, Named{"weight", weight},
                             Named{"input", input}, Named{"scalars", scalars}})
    require(named.tensor, named.name);
  check_readable(winner, "winner");
  const ConvolutionShape shape =
      convolution_shape({"input", input}, weight, padding_height, padding_width, pool);
  check<double>(scalars, "scalars", {code_scalar_count});
  check<double>(below, "below", {code_scalar_count});
  check<double>(guard, "guard", {1});
  const dlpack::Device device = device_of({{"displacement", displacement},
                                           {"winner", winner},
                                           {"weight", weight},
                                           {"input_displacement", input_displacement},
                                           {"input", input},
                                           {"weight_gradient", weight_gradient},
                                           {"bias_gradient", bias_gradient},
                                           {"scalars", scalars},
                                           {"below", below},
                                           {"guard", guard}});
  check_overlap({{"weight_gradient", weight_gradient},
                 {"bias_gradient", bias_gradient},
                 {"scalars", scalars},
                 {"guard", guard}},
                {{"displacement", displacement},
                 {"winner", winner},
                 {"weight", weight},
                 {"input_displacement", input_displacement},
                 {"input", input},
                 {"below", below}});
  check_winner(winner, shape);
  dispatch_dtype(displacement, "displacement", [&](auto zero) {
    using T = decltype(zero);
    check_like_weight<T>(weight, "weight", shape);
    check_like_input<T>(input, "input", shape);
    check_like_input<T>(input_displacement, "input_displacement", shape);
    check_like_code<T>(displacement, "displacement", shape);
    check_like_weight<T>(weight_gradient, "weight_gradient", shape);
    check<T>(bias_gradient, "bias_gradient", {shape.outputs});
    const ConvolutionWeightGradient<T> arguments{shape,
                                                 displacement.data<T>(),
                                                 winner.data<uint8_t>(),
                                                 weight.data<T>(),
                                                 input_displacement.data<T>(),
                                                 input.data<T>(),
                                                 weight_gradient.data<T>(),
                                                 bias_gradient.data<T>(),
                                                 scalars.data<CodeScalars>(),
                                                 below.data<CodeScalars>(),
                                                 guard.data<double>()};
    ALTMIN_RUN(convolution_weight_gradient, device, arguments);
  });
}

const Registration convolutions([](py::module_& module) {
  module.def("interleave", &interleave);
  module.def("deinterleave", &deinterleave);
  module.def("convolve", &convolve);
  module.def("convolution_vjp", &convolution_vjp);
  module.def("convolution_weight_gradient", &convolution_weight_gradient);
});

}  // namespace
}  // namespace altmin
