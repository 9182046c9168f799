// Runs an op where its arguments are, and enters it into the module.
#pragma once

#include <vector>

#include "call.h"
#include "ops/backend.h"
#include "recording.h"
#if defined(ALTMIN_WITH_CUDA)
#include "cuda/device.h"
#endif

namespace altmin {

// Functions of the module, each from the file that it is in.
struct Registration {
  using Function = void (*)(py::module_&);
  static std::vector<Function>& all() {
    static std::vector<Function> functions;
    return functions;
  }
  explicit Registration(Function function) { all().push_back(function); }
};
#define ALTMIN_REGISTER(op) \
  const Registration registration_of_##op([](py::module_& module) { module.def(#op, &op); });

// Gives the calling thread's parallel regions as many threads as torch.set_num_threads says. OpenMP keeps that number
// by thread, and torch sets it in a new one only when torch itself computes something large there.
void follow_torch_threads();

#if defined(ALTMIN_WITH_CUDA)
inline cuda::Stream current_stream(const dlpack::Device& device) {
  void* stream = nullptr;
  const dlpack::ExchangeApi* api = exchange_api_in_use();
  if (api->current_work_stream(device.type, device.id, &stream) != 0) throw py::error_already_set();
  return static_cast<cuda::Stream>(stream);
}

template <typename OnCpu, typename OnCuda>
auto run(const dlpack::Device& device, const OnCpu& on_cpu, const OnCuda& on_cuda) {
  if (device.type == dlpack::cuda_device) {
    const cuda::Stream stream = current_stream(device);
    py::gil_scoped_release release;
    const cuda::DeviceGuard guard(device.id);
    return on_cuda(stream);
  }
  follow_torch_threads();
  py::gil_scoped_release release;
  return on_cpu();
}
#define ALTMIN_ON_CUDA(op) , [&](cuda::Stream stream) { return cuda::op(arguments, stream); }
#else
template <typename OnCpu>
auto run(const dlpack::Device& device, const OnCpu& on_cpu) {
  if (device.type != dlpack::cpu_device)
    raise_value_error("the arguments must be on the CPU, but are on ", describe_device(device),
                      ": this build has no CUDA kernels (", ALTMIN_CUDA_REASON, ").");
  follow_torch_threads();
  py::gil_scoped_release release;
  return on_cpu();
}
#define ALTMIN_ON_CUDA(op)
#endif

// The rows of an op that works on many tensors at once.
template <typename Row, typename Make>
std::vector<Row> rows(size_t count, const Make& make) {
  std::vector<Row> result;
  result.reserve(count);
  for (size_t i = 0; i < count; ++i) result.push_back(make(i));
  return result;
}

// Runs an op's kernel for the device and the floating-point type T of the call, on arguments that are written in terms
// of T, without the interpreter's lock. A recording that is under way takes note of it.
#define ALTMIN_RUN(op, call, ...)                                                                          \
  (call).with_dtype([&, device = (call).device()](auto zero) {                                             \
    using T = decltype(zero);                                                                              \
    const auto arguments = __VA_ARGS__;                                                                    \
    if (Recording* const recording = Recording::current(); recording && device.type == dlpack::cpu_device) \
      recording->add(call, arguments, [](const auto& recorded) { return cpu::op(recorded); });             \
    return run(device, [&] { return cpu::op(arguments); } ALTMIN_ON_CUDA(op));                             \
  })

}  // namespace altmin
