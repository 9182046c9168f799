#include "geometry.h"

namespace altmin {

const ConvolutionShape& Geometry::shape(const char* images, py::handle padding, py::handle pool) {
  const auto [padding_height, padding_width] = integers("padding", padding);
  shape_ = {groups_,        inputs_,       height_,        width_,        outputs_,
            kernel_height_, kernel_width_, padding_height, padding_width, integer("pool", pool)};
  if (padding_height < 0 || padding_height >= kernel_height_ || padding_width < 0 ||
      padding_width >= kernel_width_)
    raise_value_error("padding must be at least 0 and smaller than the kernel, (", kernel_height_.value, ", ",
                      kernel_width_.value, "), but is (", padding_height, ", ", padding_width, ").");
  if (shape_.pool < 1 || shape_.pool > largest_pool)
    raise_value_error("pool must lie in [1, ", largest_pool, "], but is ", shape_.pool, ".");
  if (shape_.convolved_height() < 1 || shape_.convolved_width() < 1)
    raise_value_error("weight must be no larger than the padded images of ", images, ", which have ",
                      input().describe(), ", but has ", weight().describe(), ".");
  return shape_;
}

void Geometry::check_winner(const Tensor& winner) const {
  if (!winner == (shape_.pool > 1))
    raise_value_error("winner must be ",
                      shape_.pool > 1 ? "given where pool is more than 1." : "None where pool is 1.");
}

}  // namespace altmin
