// How kernels are launched, and the memory that lets the blocks of a launch add up their results.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>

#include "ops/backend.h"

namespace altmin::cuda {

inline void check(cudaError_t error, const char* what) {
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // which would be taken for that of the next launch
    throw std::bad_alloc();
  }
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(what) + " failed: " + cudaGetErrorString(error) + ".");
}

// Launched without <<<>>>, which only nvcc can read: tests compile these files with the host's compiler.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, Stream stream,
            const Arguments&... arguments) {
  cudaLaunchConfig_t configuration = {};
  configuration.gridDim = grid;
  configuration.blockDim = block;
  configuration.stream = stream;
  check(cudaLaunchKernelEx(&configuration, kernel, arguments...), "a kernel launch");
}

// Memory of a stream, made on first use and kept: launches of one stream follow each other, so that they can share
// it. A stream that is being captured into a graph gets memory for that graph alone, which later graphs take over once it
// is gone.
struct Workspace {
  static constexpr int64_t counter_count = 16384;
  unsigned* counters;  // all zero between launches: who uses one sets it back
  double* numbers;     // as many as were asked for, of any content

  // Allocates only where the stream never asked for as many numbers before.
  static Workspace of(Stream stream, int64_t numbers);
};

// Of the current device.
int multiprocessors();

inline int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks for `work` pieces, one per block, of a kernel whose blocks stride over the rest: four per multiprocessor
// hide the latency of memory, and more would only make partial sums longer.
inline unsigned blocks_for(int64_t work) {
  return static_cast<unsigned>(std::max<int64_t>(1, std::min<int64_t>(work, 4 * multiprocessors())));
}

template <typename T>
inline constexpr int pack_width = 16 / sizeof(T);

// Whether all of the pointers can be read 16 bytes at a time; a null pointer is not read at all.
template <typename... Pointers>
bool aligned(Pointers... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

}  // namespace altmin::cuda

// Compiles the op of this file for both dtypes.
#define ALTMIN_INSTANTIATE_CUDA(op, result, Arguments)        \
  template result op<float>(const Arguments<float>&, Stream); \
  template result op<double>(const Arguments<double>&, Stream);
