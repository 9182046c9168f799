#include "run.h"

namespace altmin {

void follow_torch_threads() {
  static thread_local bool follows = false;
  if (follows) return;
  py::module_::import("torch").attr("get_num_threads")();  // which sets the number first
  follows = true;
}

}  // namespace altmin
