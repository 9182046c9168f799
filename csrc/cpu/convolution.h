// Convolutions of one group of samples, row by row.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "ops/convolution.h"
#include "parallel.h"
#include "vector.h"

namespace altmin::cpu::ALTMIN_ISA {

// Output channels computed side by side, at most; so that each input that is loaded is used for all of them.
inline constexpr int64_t most_filters = 6;

// The filters of a convolution in the order in which they are read: in blocks of output channels, the channel
// innermost.
template <typename T>
class Filters {
 public:
  // `weight(output, input, i, j)`; the memory is lent until the next Filters of this thread.
  template <typename Weight>
  Filters(int64_t outputs_, int64_t inputs_, int64_t height_, int64_t width_, const Weight& weight)
      : outputs(outputs_), inputs(inputs_), height(height_), width(width_) {
    const int64_t blocks = (outputs + most_filters - 1) / most_filters;
    block = blocks > 0 ? (outputs + blocks - 1) / blocks : 1;
    static thread_local std::vector<T> memory;
    memory.resize(static_cast<size_t>(outputs * inputs * height * width));
    T* to = memory.data();
    for (int64_t first = 0; first < outputs; first += block)
      for (int64_t input = 0; input < inputs; ++input)
        for (int64_t i = 0; i < height; ++i)
          for (int64_t j = 0; j < width; ++j)
            for (int64_t c = first; c < std::min(first + block, outputs); ++c) *to++ = weight(c, input, i, j);
    weights = memory.data();
  }
  // Calls body(first, count) for each block of output channels.
  template <typename Body>
  void for_blocks(const Body& body) const {
    for (int64_t first = 0; first < outputs; first += block) body(first, std::min(block, outputs - first));
  }

  int64_t outputs, inputs, height, width, block;
  const T* weights;
};

// Those of a weight as it is.
template <typename T>
Filters<T> filters_of(const ConvolutionShape& s, const T* weight) {
  return {s.outputs, s.inputs, s.kernel_height, s.kernel_width,
          [&](int64_t output, int64_t input, int64_t i, int64_t j) {
            return weight[((output * s.inputs + input) * s.kernel_height + i) * s.kernel_width + j];
          }};
}

// The images of a group of samples: (channels, height, width, 16), or some of their rows.
template <typename T>
struct Images {
  const T* pixels;
  int64_t height, width, channel_stride;
};

// A row of a block of output channels
//
//   out[c][x] = sum over i, j, inputs of filter[c][i][j] image[top + i][x + j - padding] + bias[c]
//
// where the images are zero beyond their edges.
template <typename T>
void convolve_row(const Filters<T>& filters, int64_t first, int64_t count, const Images<T>& images, int64_t top,
                  int64_t padding, const T* bias, T* out, int64_t columns, int64_t channel_stride);

// Elements that one thread must have, in multiply-adds: see elements_per_thread.
inline int threads_for_convolution(const ConvolutionShape& shape) {
  return threads_for(shape.multiply_adds() / 16);
}

// Places in a window, one for each lane of a vector: bytes in memory, and as wide as T where they choose among
// numbers.
template <typename T>
using Place = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

template <typename T>
struct PlacesOf {
  typedef Place<T> type __attribute__((vector_size(vector_bytes)));
};
template <typename T>
using Places = typename PlacesOf<T>::type;

// Loops, which the compiler turns into single instructions where there are any; conversions of vectors it takes apart.
template <typename T>
inline Places<T> load_places(const uint8_t* from) {
  Place<T> places[vector_width<T>];
  for (int64_t i = 0; i < vector_width<T>; ++i) places[i] = from[i];
  Places<T> result;
  std::memcpy(&result, places, sizeof(result));
  return result;
}

template <typename T>
inline void store_places(uint8_t* to, const Places<T> places) {
  Place<T> each[vector_width<T>];
  std::memcpy(each, &places, sizeof(each));
  for (int64_t i = 0; i < vector_width<T>; ++i) to[i] = static_cast<uint8_t>(each[i]);
}

// The same place in every lane.
template <typename T>
inline Places<T> all_at(int64_t place) {
  return static_cast<Place<T>>(place) - Places<T>{};
}

// Row y of a channel between convolution and pooling: calls write(i, values) for all of its numbers, `factor` times
// the displacement at the winners' places, else zero. `displacement` and `winner` are the channel's.
template <typename T, typename Write>
inline void expand_row(const ConvolutionShape& shape, const T* displacement, const uint8_t* winner, T factor,
                       int64_t y, const Write& write) {
  constexpr int64_t step = vector_width<T>;
  const Vector<T> zero = {};
  const int64_t pool = shape.pool, codes = shape.code_width(), numbers = shape.convolved_width() * lanes;
  int64_t written = 0;
  if (y < shape.code_height() * pool) {
    const int64_t place = y / pool * codes * lanes;
    for (int64_t i = 0; i < codes * lanes; i += step) {
      const Vector<T> value = factor * load(displacement + place + i);
      if (pool == 1) {
        write(i, value);
        continue;
      }
      const Places<T> winners = load_places<T>(winner + place + i);
      for (int64_t j = 0; j < pool; ++j) {
        const Vector<T> kept = winners == all_at<T>(y % pool * pool + j) ? value : zero;
        write((i / lanes * pool + j) * lanes + i % lanes, kept);
      }
    }
    written = codes * pool * lanes;
  }
  for (int64_t i = written; i < numbers; i += step) write(i, zero);
}

}  // namespace altmin::cpu::ALTMIN_ISA
