// As many numbers as 16 bytes hold, or a single one, read and written at once.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace altmin::cuda {

template <typename T, int width>
struct alignas(width * sizeof(T)) Pack {
  T values[width];

  __device__ __forceinline__ T& operator[](int i) { return values[i]; }
  __device__ __forceinline__ const T& operator[](int i) const { return values[i]; }
};

template <int width, typename T>
__device__ __forceinline__ Pack<T, width> load(const T* from) {
  return *reinterpret_cast<const Pack<T, width>*>(from);
}

// `otherwise` in every place where there is nothing to read from.
template <int width, typename T>
__device__ __forceinline__ Pack<T, width> load_or(const T* from, int64_t offset, T otherwise) {
  if (from) return load<width>(from + offset);
  Pack<T, width> pack;
  for (int i = 0; i < width; ++i) pack[i] = otherwise;
  return pack;
}

template <typename T, int width>
__device__ __forceinline__ void store(T* to, const Pack<T, width>& pack) {
  *reinterpret_cast<Pack<T, width>*>(to) = pack;
}

}  // namespace altmin::cuda
