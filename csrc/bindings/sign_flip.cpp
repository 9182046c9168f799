// Codes that are read through a sign.
#include "ops/sign_flip.h"

#include "run.h"

namespace altmin {
namespace {

void sign_flip(const Tensor& code, const Tensor& pulled_back, const Tensor& norm, const Tensor& mask,
               const Tensor& displacement, const Tensor& scalars, const Tensor& above, const Tensor& guard) {
  for (const Named& named : {Named{"code", code}, Named{"pulled_back", pulled_back}, Named{"norm", norm},
                             Named{"displacement", displacement}, Named{"scalars", scalars}})
    require(named.tensor, named.name);
  check_dimensions(code, "code", 2);
  const int64_t batch = code.shape(0), width = code.shape(1);
  check<double>(scalars, "scalars", {code_scalar_count});
  check<double>(above, "above", {code_scalar_count});
  check<double>(guard, "guard", {1});
  const dlpack::Device device = device_of({{"code", code},
                                           {"pulled_back", pulled_back},
                                           {"norm", norm},
                                           {"mask", mask},
                                           {"displacement", displacement},
                                           {"scalars", scalars},
                                           {"above", above},
                                           {"guard", guard}});
  check_overlap({{"displacement", displacement}, {"scalars", scalars}, {"guard", guard}},
                {{"code", code}, {"norm", norm}, {"mask", mask}, {"above", above}});
  check_overlap({{"scalars", scalars}, {"guard", guard}}, {{"pulled_back", pulled_back}});
  check_replacement({"displacement", displacement}, {{"pulled_back", pulled_back}});
  dispatch_dtype(code, "code", [&](auto zero) {
    using T = decltype(zero);
    for (const Named& named : {Named{"code", code}, Named{"pulled_back", pulled_back}, Named{"mask", mask},
                               Named{"displacement", displacement}})
      check<T>(named.tensor, named.name, {batch, width});
    check<T>(norm, "norm", {width});
    const SignFlip<T> arguments{batch * width,
                                width,
                                code.data<T>(),
                                pulled_back.data<T>(),
                                norm.data<T>(),
                                mask.data<T>(),
                                displacement.data<T>(),
                                scalars.data<CodeScalars>(),
                                above.data<CodeScalars>(),
                                guard.data<double>()};
    ALTMIN_RUN(sign_flip, device, arguments);
  });
}

const Registration sign_flips([](py::module_& module) { module.def("sign_flip", &sign_flip); });

}  // namespace
}  // namespace altmin
