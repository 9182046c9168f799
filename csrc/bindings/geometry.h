// The shapes of a convolution's tensors, which those of its input and its weight decide.
#pragma once

#include "ops/convolution.h"
#include "run.h"

namespace altmin {

class Geometry {
 public:
  Shape input() { return {groups_, inputs_, height_, width_, lanes}; }
  Shape weight() { return {outputs_, inputs_, kernel_height_, kernel_width_}; }
  // Once input and weight have been listed, the former as `images`.
  const ConvolutionShape& shape(const char* images, py::handle padding, py::handle pool);
  Shape code() const {
    return {shape_.groups, shape_.outputs, shape_.code_height(), shape_.code_width(), lanes};
  }
  // The winners that a displacement belongs to.
  void check_winner(const Tensor& winner) const;

 private:
  Size groups_, inputs_, height_, width_, outputs_, kernel_height_, kernel_width_;
  ConvolutionShape shape_{};
};

}  // namespace altmin
