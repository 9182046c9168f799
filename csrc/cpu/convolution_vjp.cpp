#include "ops/convolution_vjp.h"

#include "convolution.h"

namespace altmin::cpu::ALTMIN_ISA {

namespace {

// What the expanded displacements of a few rows may take up, so that they stay in the second-level cache.
constexpr int64_t expanded_strip_bytes = 131072;

}  // namespace

// The convolution of the expanded displacements with the kernel turned by half a turn.
template <typename T>
void convolution_vjp(const ConvolutionVjp<T>& o) {
  const ConvolutionShape& s = o.shape;
  if (s.groups == 0 || s.inputs == 0 || s.height == 0 || s.width == 0) return;
  const Filters<T> filters(
      s.inputs, s.outputs, s.kernel_height, s.kernel_width,
      [&](int64_t input, int64_t output, int64_t i, int64_t j) {
        return o.weight[((output * s.inputs + input + 1) * s.kernel_height - i) * s.kernel_width - 1 - j];
      });
  const int64_t padding_height = s.kernel_height - 1 - s.padding_height;
  const int64_t padding_width = s.kernel_width - 1 - s.padding_width;
  const int64_t height = s.convolved_height(), width = s.convolved_width();
  const int64_t codes = s.code_height() * s.code_width() * lanes,
                row_bytes = s.outputs * width * lanes * sizeof(T);
  const int64_t fitting = expanded_strip_bytes / std::max<int64_t>(1, row_bytes) - s.kernel_height + 1;
  const int64_t strip = std::max<int64_t>(1, std::min(fitting, s.height)),
                strips = (s.height + strip - 1) / strip;
  const int threads = threads_for_convolution(s);
  const int64_t reach = std::min(height, strip + s.kernel_height - 1);  // of a strip among the convolved rows
  const Scratch<T> memory(threads, s.pool > 1 ? s.outputs * (reach * width + 1) * lanes : 0);
  parallel_ranges(
      s.groups * strips, threads,
      [&](int thread, int64_t begin, int64_t end) {
        for (int64_t item = begin; item < end; ++item) {
          const int64_t group = item / strips, first_row = item % strips * strip;
          const int64_t last_row = std::min(first_row + strip, s.height);
          const T* displacement = o.displacement + group * s.outputs * codes;
          // The convolved rows in reach of these rows.
          int64_t top = 0, bottom = height;
          Images<T> images = {displacement, height, width, codes};
          if (s.pool > 1) {
            top = std::min(height, std::max<int64_t>(0, first_row - padding_height));
            bottom = std::max(top, std::min(height, last_row - padding_height + s.kernel_height - 1));
            const int64_t channel = ((bottom - top) * width + 1) * lanes;
            T* const expanded = memory[thread];
            for (int64_t c = 0; c < s.outputs; ++c)
              for (int64_t y = top; y < bottom; ++y) {
                T* const row = expanded + c * channel + (y - top) * width * lanes;
                expand_row(s, displacement + c * codes, o.winner + (group * s.outputs + c) * codes, T(1), y,
                           [&](int64_t i, const Vector<T> values) { store(row + i, values); });
              }
            images = {expanded, bottom - top, width, channel};
          }
          filters.for_blocks([&](int64_t first, int64_t count) {
            for (int64_t y = first_row; y < last_row; ++y)
              convolve_row<T>(filters, first, count, images, y - padding_height - top, padding_width, nullptr,
                              o.pulled_back + ((group * s.inputs + first) * s.height + y) * s.width * lanes,
                              s.width, s.height * s.width * lanes);
          });
        }
      },
      1);
}

ALTMIN_INSTANTIATE(convolution_vjp, void, ConvolutionVjp)

}  // namespace altmin::cpu::ALTMIN_ISA
