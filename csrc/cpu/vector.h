// A vector register's worth of lanes, by the compiler's vector extensions: one source for every instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "ops/lanes.h"

namespace altmin::cpu::ALTMIN_ISA {

#if defined(__AVX512F__)
inline constexpr int vector_bytes = 64, vector_registers = 32;
#elif defined(__AVX2__)
inline constexpr int vector_bytes = 32, vector_registers = 16;
#else
inline constexpr int vector_bytes = 16, vector_registers = 16;
#endif

template <typename T>
inline constexpr int64_t vector_width = vector_bytes / sizeof(T);

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(vector_bytes)));
};
template <typename T>
using Vector = typename VectorOf<T>::type;

// Of any alignment.
template <typename T>
inline Vector<T> load(const T* from) {
  Vector<T> v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

template <typename T>
inline void store(T* to, const Vector<T> v) {
  std::memcpy(to, &v, sizeof(v));
}

template <typename T>
inline Vector<T> broadcast(T x) {
  return x - Vector<T>{};
}

template <typename T>
inline T sum_of_lanes(const Vector<T> v) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t l = 0; l < vector_width<T>; ++l) sum += v[l];
  return sum;
}

}  // namespace altmin::cpu::ALTMIN_ISA
