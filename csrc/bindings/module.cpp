// The Python module altmin_ext._C: each function checks its arguments once and calls the op of the same name.
#include <omp.h>
#include <pybind11/pybind11.h>

#include <iterator>
#include <string>
#include <vector>

#include "cuda/device.h"
#include "ops/activate.h"
#include "ops/adam_update.h"
#include "ops/bcd_columns.h"
#include "ops/code_step.h"
#include "ops/memory_update.h"
#include "ops/mse_residual.h"
#include "ops/power_iteration.h"
#include "ops/sgd_update.h"
#include "ops/softmax_residual.h"
#include "ops/weight_residual.h"
#include "run.h"

namespace altmin {
namespace {

static_assert(sizeof(CodeScalars) == code_scalar_count * sizeof(double));
static_assert(sizeof(UpdateScalars) == std::size(update_scalar_names) * sizeof(double));
static_assert(sizeof(AdamScalars) == std::size(adam_scalar_names) * sizeof(double));
static_assert(sizeof(MemoryScalars) == memory_scalar_count * sizeof(double));

void activate(const Tensor& code, const Tensor& bias, const Tensor& mask, const Tensor& activation, int kind,
              double parameter, const Tensor& guard) {
  require(code, "code");
  require(activation, "activation");
  check_dimensions(code, "code", 2);
  const int64_t batch = code.shape(0), width = code.shape(1);
  check<double>(guard, "guard", {1});
  const bool in_place = code.data<char>() == activation.data<char>();
  const dlpack::Device device =
      device_of({{"code", code}, {"bias", bias}, {"mask", mask}, {"activation", activation}, {"guard", guard}});
  check_overlap({{"code", code}, {"activation", in_place ? Tensor{} : activation}, {"guard", guard}},
                {{"bias", bias}, {"mask", mask}});
  dispatch_dtype(code, "code", [&](auto zero) {
    using T = decltype(zero);
    check<T>(code, "code", {batch, width});
    check<T>(bias, "bias", {width});
    check<T>(mask, "mask", {batch, width});
    check<T>(activation, "activation", {batch, width});
    const Activate<T> arguments{batch,
                                width,
                                code.data<T>(),
                                bias.data<T>(),
                                mask.data<T>(),
                                activation.data<T>(),
                                activation_kind(kind),
                                static_cast<T>(parameter),
                                guard.data<double>()};
    ALTMIN_RUN(activate, device, arguments);
  });
}

void code_step(const Tensor& code, const Tensor& pulled_back, const Tensor& pulled_back_change,
               const Tensor& mask, const Tensor& displacement, const Tensor& velocity, const Tensor& activation,
               const Tensor& activation_displacement, const Tensor& scalars, const Tensor& above, bool first,
               int kind, double parameter, const Tensor& guard, const Tensor& gap) {
  for (const Named& named :
       {Named{"code", code}, Named{"pulled_back", pulled_back}, Named{"displacement", displacement},
        Named{"activation", activation}, Named{"scalars", scalars}})
    require(named.tensor, named.name);
  check_dimensions(code, "code", 2);
  const int64_t batch = code.shape(0), width = code.shape(1);
  check<double>(scalars, "scalars", {code_scalar_count});
  check<double>(above, "above", {code_scalar_count});
  check<double>(guard, "guard", {1});
  const dlpack::Device device = device_of({{"code", code},
                                           {"pulled_back", pulled_back},
                                           {"pulled_back_change", pulled_back_change},
                                           {"mask", mask},
                                           {"displacement", displacement},
                                           {"velocity", velocity},
                                           {"activation", activation},
                                           {"activation_displacement", activation_displacement},
                                           {"scalars", scalars},
                                           {"above", above},
                                           {"guard", guard},
                                           {"gap", gap}});
  check_overlap({{"displacement", displacement},
                 {"velocity", velocity},
                 {"activation", activation},
                 {"activation_displacement", activation_displacement},
                 {"scalars", scalars},
                 {"guard", guard}},
                {{"pulled_back_change", pulled_back_change}, {"mask", mask}, {"above", above}, {"gap", gap}});
  // What may share memory is left out of the second comparison.
  const Activation sigma = activation_kind(kind);
  const bool at_rest = sigma == Activation::relu || sigma == Activation::identity;
  const bool displaces_in_place = first && displacement.data<char>() == pulled_back.data<char>();
  const bool activates_in_place = first && at_rest && activation.data<char>() == code.data<char>();
  check_overlap({{"velocity", velocity},
                 {"activation_displacement", activation_displacement},
                 {"displacement", displaces_in_place ? Tensor{} : displacement},
                 {"activation", activation},
                 {"scalars", scalars},
                 {"guard", guard}},
                {{"pulled_back", pulled_back}});
  check_overlap({{"displacement", displacement},
                 {"velocity", velocity},
                 {"activation_displacement", activation_displacement},
                 {"activation", activates_in_place ? Tensor{} : activation},
                 {"scalars", scalars},
                 {"guard", guard}},
                {{"code", code}});
  dispatch_dtype(code, "code", [&](auto zero) {
    using T = decltype(zero);
    for (const Named& named :
         {Named{"code", code}, Named{"pulled_back", pulled_back},
          Named{"pulled_back_change", pulled_back_change}, Named{"mask", mask},
          Named{"displacement", displacement}, Named{"velocity", velocity}, Named{"activation", activation},
          Named{"activation_displacement", activation_displacement}, Named{"gap", gap}})
      check<T>(named.tensor, named.name, {batch, width});
    const CodeStep<T> arguments{batch * width,
                                code.data<T>(),
                                pulled_back.data<T>(),
                                pulled_back_change.data<T>(),
                                mask.data<T>(),
                                displacement.data<T>(),
                                velocity.data<T>(),
                                activation.data<T>(),
                                activation_displacement.data<T>(),
                                scalars.data<CodeScalars>(),
                                above.data<CodeScalars>(),
                                first,
                                sigma,
                                static_cast<T>(parameter),
                                guard.data<double>(),
                                gap.data<T>()};
    ALTMIN_RUN(code_step, device, arguments);
  });
}

void softmax_residual(const Tensor& logits, const Tensor& bias, const Tensor& labels, const Tensor& residual,
                      const Tensor& bias_gradient, const Tensor& loss, const Tensor& correct,
                      const Tensor& guard) {
  for (const Named& named : {Named{"logits", logits}, Named{"labels", labels}, Named{"residual", residual},
                             Named{"loss", loss}, Named{"correct", correct}})
    require(named.tensor, named.name);
  check_dimensions(logits, "logits", 2);
  const int64_t batch = logits.shape(0), classes = logits.shape(1);
  const dlpack::Device device = device_of({{"logits", logits},
                                           {"bias", bias},
                                           {"labels", labels},
                                           {"residual", residual},
                                           {"bias_gradient", bias_gradient},
                                           {"loss", loss},
                                           {"correct", correct},
                                           {"guard", guard}});
  if (classes == 0) raise_value_error("logits must have at least one column, but has none.");
  check<int64_t>(labels, "labels", {batch});
  check<int64_t>(correct, "correct", {});
  check<double>(guard, "guard", {1});
  check_overlap({{"bias_gradient", bias_gradient}, {"loss", loss}, {"correct", correct}, {"guard", guard}},
                {{"logits", logits}, {"residual", residual}, {"bias", bias}, {"labels", labels}});
  check_overlap({{"residual", residual}}, {{"bias", bias}, {"labels", labels}});
  check_replacement({"residual", residual}, {{"logits", logits}});
  const int64_t wrong = dispatch_dtype(logits, "logits", [&](auto zero) {
    using T = decltype(zero);
    check<T>(logits, "logits", {batch, classes});
    check<T>(bias, "bias", {classes});
    check<T>(residual, "residual", {batch, classes});
    check<T>(bias_gradient, "bias_gradient", {classes});
    check<T>(loss, "loss", {});
    const SoftmaxResidual<T> arguments{batch,
                                       classes,
                                       logits.data<T>(),
                                       bias.data<T>(),
                                       labels.data<int64_t>(),
                                       residual.data<T>(),
                                       bias_gradient.data<T>(),
                                       loss.data<T>(),
                                       correct.data<int64_t>(),
                                       guard.data<double>()};
    return ALTMIN_RUN(softmax_residual, device, arguments);
  });
  if (wrong >= 0)
    raise_value_error("y must lie in [0, ", classes, "), but y[", wrong, "] is ", labels.data<int64_t>()[wrong],
                      ".");
}

void mse_residual(const Tensor& logits, const Tensor& bias, const Tensor& targets, const Tensor& residual,
                  const Tensor& bias_gradient, const Tensor& loss, const Tensor& guard) {
  for (const Named& named :
       {Named{"logits", logits}, Named{"targets", targets}, Named{"residual", residual}, Named{"loss", loss}})
    require(named.tensor, named.name);
  check_dimensions(logits, "logits", 2);
  const int64_t batch = logits.shape(0), width = logits.shape(1);
  check<double>(guard, "guard", {1});
  const dlpack::Device device = device_of({{"logits", logits},
                                           {"bias", bias},
                                           {"targets", targets},
                                           {"residual", residual},
                                           {"bias_gradient", bias_gradient},
                                           {"loss", loss},
                                           {"guard", guard}});
  check_overlap({{"bias_gradient", bias_gradient}, {"loss", loss}, {"guard", guard}},
                {{"logits", logits}, {"residual", residual}, {"bias", bias}, {"targets", targets}});
  check_overlap({{"residual", residual}}, {{"bias", bias}, {"targets", targets}});
  check_replacement({"residual", residual}, {{"logits", logits}});
  dispatch_dtype(logits, "logits", [&](auto zero) {
    using T = decltype(zero);
    check<T>(logits, "logits", {batch, width});
    check<T>(bias, "bias", {width});
    check<T>(targets, "targets", {batch, width});
    check<T>(residual, "residual", {batch, width});
    check<T>(bias_gradient, "bias_gradient", {width});
    check<T>(loss, "loss", {});
    const MseResidual<T> arguments{batch,
                                   width,
                                   logits.data<T>(),
                                   bias.data<T>(),
                                   targets.data<T>(),
                                   residual.data<T>(),
                                   bias_gradient.data<T>(),
                                   loss.data<T>(),
                                   guard.data<double>()};
    ALTMIN_RUN(mse_residual, device, arguments);
  });
}

// Runs the checks of one entry of list arguments, and says of which one an error is.
template <typename Body>
void naming_stage(size_t stage, const Body& body) {
  try {
    body();
  } catch (const py::value_error& error) {
    raise_value_error("stage ", stage, ": ", error.what());
  } catch (const py::type_error& error) {
    raise_type_error("stage ", stage, ": ", error.what());
  }
}

template <typename T>
WeightResidualStage<T> weight_residual_stage(const Tensor& displacement, const Tensor& product,
                                             const Tensor& bias, const Tensor& code, const Tensor& residual,
                                             const Tensor& bias_gradient, const Tensor& scalars,
                                             const Tensor& below, const Tensor& guard, size_t i,
                                             int64_t batch) {
  for (const Named& named :
       {Named{"displacement", displacement}, Named{"residual", residual}, Named{"scalars", scalars}})
    require(named.tensor, named.name);
  check_dimensions(displacement, "displacement", 2);
  const int64_t width = displacement.shape(1);
  check<double>(scalars, "scalars", {code_scalar_count});
  check<double>(below, "below", {code_scalar_count});
  check_overlap({{"bias_gradient", bias_gradient}, {"scalars", scalars}, {"guard", guard}},
                {{"displacement", displacement},
                 {"product", product},
                 {"residual", residual},
                 {"bias", bias},
                 {"code", code},
                 {"below", below}});
  check_overlap({{"residual", residual}}, {{"bias", bias}, {"code", code}, {"below", below}});
  check_replacement({"residual", residual}, {{"displacement", displacement}, {"product", product}});
  for (const Named& named : {Named{"displacement", displacement}, Named{"product", product},
                             Named{"code", code}, Named{"residual", residual}})
    check<T>(named.tensor, named.name, {batch, width});
  check<T>(bias, "bias", {width});
  check<T>(bias_gradient, "bias_gradient", {width});
  return {width,
          displacement.data<T>(),
          product.data<T>(),
          bias.data<T>(),
          code.data<T>(),
          residual.data<T>(),
          bias_gradient.data<T>(),
          scalars.data<CodeScalars>(),
          below.data<CodeScalars>(),
          guard ? guard.data<double>() + i : nullptr};
}

void weight_residual(const py::sequence& displacements, const py::sequence& products,
                     const py::sequence& biases, const py::sequence& codes, const py::sequence& residuals,
                     const py::sequence& bias_gradients, const py::sequence& scalars, const py::sequence& below,
                     const Tensor& guard) {
  const size_t stages = displacements.size();
  const std::pair<const char*, const py::sequence&> lists[] = {{"products", products},
                                                               {"biases", biases},
                                                               {"codes", codes},
                                                               {"residuals", residuals},
                                                               {"bias_gradients", bias_gradients},
                                                               {"scalars", scalars},
                                                               {"below", below}};
  for (const auto& [name, list] : lists)
    if (list.size() != stages)
      raise_value_error(name, " must have one entry for each of the ", stages, " displacements, but has ",
                        list.size(), ".");
  check<double>(guard, "guard", {static_cast<int64_t>(stages)});
  if (stages == 0) return;
  const Tensor first = py::cast<Tensor>(displacements[0]);
  naming_stage(0, [&] {
    require(first, "displacement");
    check_dimensions(first, "displacement", 2);
  });
  const dlpack::Device device = device_of({{"displacement", first}, {"guard", guard}});
  dispatch_dtype(first, "stage 0: displacement", [&](auto zero) {
    using T = decltype(zero);
    WeightResidual<T> arguments{first.shape(0), {}};
    arguments.stages.reserve(stages);
    for (size_t i = 0; i < stages; ++i) {
      naming_stage(i, [&] {
        const auto entry = [i](const py::sequence& list) { return py::cast<Tensor>(list[i]); };
        const Tensor displacement = entry(displacements), product = entry(products), bias = entry(biases),
                     code = entry(codes), residual = entry(residuals), bias_gradient = entry(bias_gradients),
                     block = entry(scalars), block_below = entry(below);
        device_of({{"the first displacement", first},
                   {"displacement", displacement},
                   {"product", product},
                   {"bias", bias},
                   {"code", code},
                   {"residual", residual},
                   {"bias_gradient", bias_gradient},
                   {"scalars", block},
                   {"below", block_below}});
        arguments.stages.push_back(weight_residual_stage<T>(displacement, product, bias, code, residual,
                                                            bias_gradient, block, block_below, guard, i,
                                                            first.shape(0)));
      });
    }
    ALTMIN_RUN(weight_residual, device, arguments);
  });
}

int64_t guard_size(const Tensor& guard) {
  check_readable(guard, "guard");
  if (!guard) return 0;
  check_dimensions(guard, "guard", 1);
  check<double>(guard, "guard", {guard.shape(0)});
  return guard.shape(0);
}

// What both weight updates read from their arguments, one row per tensor of `weights`.
struct UpdateArguments {
  const py::sequence &weights, &gradients;
  const Tensor &scalars, &guard, &guard_index;

  void check_lists(std::initializer_list<std::pair<const char*, const py::sequence*>> lists) const {
    const int64_t count = static_cast<int64_t>(weights.size());
    for (const auto& [name, list] : lists)
      if (list->size() != weights.size())
        raise_value_error(name, " must have one entry for each of the ", count, " weights, but has ",
                          list->size(), ".");
    require(scalars, "scalars");
    check<double>(scalars, "scalars", {count, static_cast<int64_t>(std::size(update_scalar_names))});
    check<int64_t>(guard_index, "guard_index", {count});
    if (guard_index && guard_index.view.device.type != dlpack::cpu_device)
      raise_value_error("guard_index must be on the CPU, where it is read, but is on ",
                        describe_device(guard_index.view.device), ".");
    check_overlap({{"guard", guard}}, {{"scalars", scalars}, {"guard_index", guard_index}});
    for (int64_t i = 0; guard && guard_index && i < count; ++i) {
      const int64_t index = guard_index.data<int64_t>()[i];
      if (index < 0 || index >= guard.shape(0))
        raise_value_error("guard_index must lie in [0, ", guard.shape(0), "), but guard_index[", i, "] is ",
                          index, ".");
    }
  }
  // The flag of a tensor; without an index all have the first.
  double* flag(size_t i) const {
    if (!guard || guard.shape(0) == 0) return nullptr;
    return guard.data<double>() + (guard_index ? guard_index.data<int64_t>()[i] : 0);
  }
};

// A tensor of a list argument, shaped like the weight it belongs to.
template <typename T>
T* like_weight(const py::sequence& list, size_t i, const char* name, const Tensor& weight,
               const dlpack::Device& device) {
  const Tensor tensor = py::cast<Tensor>(list[i]);
  if (tensor.unreadable) check_readable(tensor, name + ("[" + std::to_string(i) + "]"));
  const bool same_type = tensor && tensor.is_float(8 * sizeof(T));
  if (!same_type)
    raise_type_error(name, "[", i, "] must be a ", dtype_name<T>(),
                     " torch.Tensor like the other weights, but is ", tensor ? tensor.describe_dtype() : "None",
                     ".");
  check_device(tensor, name, device, "scalars");
  if (!tensor.is_contiguous()) raise_value_error(name, "[", i, "] must be contiguous.");
  if (!tensor.has_shape_of(weight))
    raise_value_error(name, "[", i, "] must have shape ", weight.describe_shape(), ", but has shape ",
                      tensor.describe_shape(), ".");
  return tensor.data<T>();
}

// Raises if two of the tensors that belong to weight i share memory.
template <typename T, size_t n>
void check_row_overlap(size_t i, int64_t size, const std::pair<const char*, const T*> (&row)[n]) {
  for (size_t a = 0; a < n; ++a)
    for (size_t b = a + 1; b < n; ++b)
      if (row[a].second < row[b].second + size && row[b].second < row[a].second + size)
        raise_value_error(row[a].first, "[", i, "] and ", row[b].first, "[", i, "] must not share memory.");
}

template <typename Body>
void for_update_dtype(const py::sequence& weights, const Body& body) {
  if (weights.empty()) return;
  const Tensor first = py::cast<Tensor>(weights[0]);
  require(first, "weights[0]");
  dispatch_dtype(first, "weights[0]", body);
}

void adam_update(const py::sequence& weights, const py::sequence& gradients, const py::sequence& first_moments,
                 const py::sequence& second_moments, const Tensor& scalars, const Tensor& adam,
                 const Tensor& guard, const Tensor& guard_index) {
  const UpdateArguments common{weights, gradients, scalars, guard, guard_index};
  const int64_t guards = guard_size(guard);
  common.check_lists(
      {{"gradients", &gradients}, {"first_moments", &first_moments}, {"second_moments", &second_moments}});
  require(adam, "adam");
  check<double>(adam, "adam", {static_cast<int64_t>(std::size(adam_scalar_names))});
  check_overlap({{"adam", adam}, {"guard", guard}}, {{"scalars", scalars}, {"guard_index", guard_index}});
  const dlpack::Device device = device_of({{"scalars", scalars}, {"adam", adam}, {"guard", guard}});
  for_update_dtype(weights, [&](auto zero) {
    using T = decltype(zero);
    AdamUpdate<T> arguments{{}, adam.data<AdamScalars>(), guard.data<double>(), guards};
    arguments.tensors.reserve(weights.size());
    for (size_t i = 0; i < weights.size(); ++i) {
      const Tensor weight = py::cast<Tensor>(weights[i]);
      const AdamTensor<T> tensor{weight.size(),
                                 like_weight<T>(weights, i, "weights", weight, device),
                                 like_weight<T>(gradients, i, "gradients", weight, device),
                                 like_weight<T>(first_moments, i, "first_moments", weight, device),
                                 like_weight<T>(second_moments, i, "second_moments", weight, device),
                                 scalars.data<UpdateScalars>() + i,
                                 common.flag(i)};
      check_row_overlap<T>(i, tensor.size,
                           {{"weights", tensor.weight},
                            {"gradients", tensor.gradient},
                            {"first_moments", tensor.first_moment},
                            {"second_moments", tensor.second_moment}});
      arguments.tensors.push_back(tensor);
    }
    ALTMIN_RUN(adam_update, device, arguments);
  });
}

void sgd_update(const py::sequence& weights, const py::sequence& gradients, const Tensor& scalars,
                const Tensor& guard, const Tensor& guard_index) {
  const UpdateArguments common{weights, gradients, scalars, guard, guard_index};
  const int64_t guards = guard_size(guard);
  common.check_lists({{"gradients", &gradients}});
  const dlpack::Device device = device_of({{"scalars", scalars}, {"guard", guard}});
  for_update_dtype(weights, [&](auto zero) {
    using T = decltype(zero);
    SgdUpdate<T> arguments{{}, guard.data<double>(), guards};
    arguments.tensors.reserve(weights.size());
    for (size_t i = 0; i < weights.size(); ++i) {
      const Tensor weight = py::cast<Tensor>(weights[i]);
      const SgdTensor<T> tensor{weight.size(), like_weight<T>(weights, i, "weights", weight, device),
                                like_weight<T>(gradients, i, "gradients", weight, device),
                                scalars.data<UpdateScalars>() + i, common.flag(i)};
      check_row_overlap<T>(i, tensor.size, {{"weights", tensor.weight}, {"gradients", tensor.gradient}});
      arguments.tensors.push_back(tensor);
    }
    ALTMIN_RUN(sgd_update, device, arguments);
  });
}

template <typename T>
PowerIterationMatrix<T> power_iteration_matrix(const Tensor& weight, const Tensor& vector,
                                               const Tensor& sigma_squared) {
  require(weight, "weight");
  require(vector, "vector");
  require(sigma_squared, "sigma_squared");
  check_dimensions(weight, "weight", 2);
  check<double>(sigma_squared, "sigma_squared", {1});
  check_overlap({{"vector", vector}, {"sigma_squared", sigma_squared}}, {{"weight", weight}});
  check<T>(weight, "weight", {weight.shape(0), weight.shape(1)});
  check<T>(vector, "vector", {weight.shape(1)});
  return {weight.shape(0), weight.shape(1), weight.data<T>(), vector.data<T>(), sigma_squared.data<double>()};
}

void power_iteration(const py::sequence& weights, const py::sequence& vectors,
                     const py::sequence& sigma_squared) {
  const size_t count = weights.size();
  const std::pair<const char*, const py::sequence&> lists[] = {{"vectors", vectors},
                                                               {"sigma_squared", sigma_squared}};
  for (const auto& [name, list] : lists)
    if (list.size() != count)
      raise_value_error(name, " must have one entry for each of the ", count, " weights, but has ", list.size(),
                        ".");
  if (count == 0) return;
  const Tensor first = py::cast<Tensor>(weights[0]);
  naming_stage(0, [&] { require(first, "weight"); });
  const dlpack::Device device = device_of({{"weight", first}});
  dispatch_dtype(first, "stage 0: weight", [&](auto zero) {
    using T = decltype(zero);
    PowerIteration<T> arguments;
    arguments.matrices.reserve(count);
    for (size_t i = 0; i < count; ++i) {
      naming_stage(i, [&] {
        const Tensor weight = py::cast<Tensor>(weights[i]), vector = py::cast<Tensor>(vectors[i]),
                     square = py::cast<Tensor>(sigma_squared[i]);
        device_of(
            {{"the first weight", first}, {"weight", weight}, {"vector", vector}, {"sigma_squared", square}});
        arguments.matrices.push_back(power_iteration_matrix<T>(weight, vector, square));
      });
    }
    ALTMIN_RUN(power_iteration, device, arguments);
  });
}

void memory_update(const Tensor& activation, const Tensor& code, const Tensor& gram, const Tensor& cross,
                   const Tensor& scalars) {
  for (const Named& named : {Named{"activation", activation}, Named{"code", code}, Named{"gram", gram},
                             Named{"cross", cross}, Named{"scalars", scalars}})
    require(named.tensor, named.name);
  check_dimensions(activation, "activation", 2);
  check_dimensions(code, "code", 2);
  check_dimensions(gram, "gram", 2);
  check<double>(scalars, "scalars", {memory_scalar_count});
  const dlpack::Device device = device_of(
      {{"activation", activation}, {"code", code}, {"gram", gram}, {"cross", cross}, {"scalars", scalars}});
  check_overlap({{"gram", gram}, {"cross", cross}},
                {{"activation", activation}, {"code", code}, {"scalars", scalars}});
  const int64_t batch = activation.shape(0), n_in = activation.shape(1), n_out = code.shape(1);
  const int64_t n_gram = gram.shape(0);
  if (n_gram != n_in && n_gram != n_in + 1)
    raise_value_error("gram must have as many rows as activation has columns, ", n_in,
                      ", or one more for the bias, but has shape ", gram.describe_shape(), ".");
  dispatch_dtype(activation, "activation", [&](auto zero) {
    using T = decltype(zero);
    check<T>(activation, "activation", {batch, n_in});
    check<T>(code, "code", {batch, n_out});
    check<T>(gram, "gram", {n_gram, n_gram});
    check<T>(cross, "cross", {n_out, n_gram});
    const MemoryUpdate<T> arguments{batch,
                                    n_in,
                                    n_out,
                                    n_gram,
                                    activation.data<T>(),
                                    code.data<T>(),
                                    gram.data<T>(),
                                    cross.data<T>(),
                                    scalars.data<MemoryScalars>()};
    ALTMIN_RUN(memory_update, device, arguments);
  });
}

void bcd_columns(const Tensor& weight, const Tensor& gram, const Tensor& cross, const Tensor& scalars,
                 int sweeps, bool has_bias, bool nonnegative) {
  for (const Named& named :
       {Named{"weight", weight}, Named{"gram", gram}, Named{"cross", cross}, Named{"scalars", scalars}})
    require(named.tensor, named.name);
  check_dimensions(weight, "weight", 2);
  check<double>(scalars, "scalars", {memory_scalar_count});
  const dlpack::Device device =
      device_of({{"weight", weight}, {"gram", gram}, {"cross", cross}, {"scalars", scalars}});
  check_overlap({{"weight", weight}}, {{"gram", gram}, {"cross", cross}, {"scalars", scalars}});
  if (sweeps < 1) raise_value_error("sweeps must be at least 1, but is ", sweeps, ".");
  const int64_t rows = weight.shape(0), columns = weight.shape(1);
  dispatch_dtype(weight, "weight", [&](auto zero) {
    using T = decltype(zero);
    check<T>(weight, "weight", {rows, columns});
    check<T>(gram, "gram", {columns, columns});
    check<T>(cross, "cross", {rows, columns});
    const BcdColumns<T> arguments{rows,           columns,         weight.data<T>(),
                                  gram.data<T>(), cross.data<T>(), scalars.data<MemoryScalars>(),
                                  sweeps,         has_bias,        nonnegative};
    ALTMIN_RUN(bcd_columns, device, arguments);
  });
}

template <size_t n>
py::tuple name_tuple(const char* const (&names)[n]) {
  py::tuple result(n);
  for (size_t i = 0; i < n; ++i) result[i] = py::str(names[i]);
  return result;
}

}  // namespace
}  // namespace altmin

PYBIND11_MODULE(_C, module) {
  using namespace altmin;
  module.doc() = "Native kernels of altmin_ext; use them through altmin_ext.ops.";
  module.def("activate", &activate);
  module.def("code_step", &code_step);
  module.def("softmax_residual", &softmax_residual);
  module.def("mse_residual", &mse_residual);
  module.def("weight_residual", &weight_residual);
  module.def("adam_update", &adam_update);
  module.def("sgd_update", &sgd_update);
  module.def("power_iteration", &power_iteration);
  module.def("memory_update", &memory_update);
  module.def("bcd_columns", &bcd_columns);
  for (const Registration::Function enter : Registration::all()) enter(module);

  module.attr("activation_names") = name_tuple(activation_names);
  module.attr("code_scalar_names") = name_tuple(code_scalar_names);
  module.attr("update_scalar_names") = name_tuple(update_scalar_names);
  module.attr("adam_scalar_names") = name_tuple(adam_scalar_names);
  module.attr("memory_scalar_names") = name_tuple(memory_scalar_names);

  module.attr("version") = ALTMIN_VERSION;
  module.attr("compiler") = ALTMIN_COMPILER;
  module.attr("flags") = ALTMIN_FLAGS;
  module.attr("cuda_reason") = ALTMIN_CUDA_REASON;
  module.def("instruction_set", &cpu::instruction_set);
  module.def("use_instruction_set", &cpu::use_instruction_set);
  module.def("threads", [] { return omp_get_max_threads(); });
  module.def("cuda_compiled_version", &cuda::compiled_version);
  module.def("cuda_device_count", &cuda::device_count);
}
