// Batches of images and sequences, whose samples lie side by side: their layout, and convolutions of them.
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

const Registration registration([](py::module_& module) {
  module.def("interleave", &interleave);
  module.def("deinterleave", &deinterleave);
});

}  // namespace
}  // namespace altmin
