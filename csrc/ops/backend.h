// Declares an op for every backend: cpu::<op>, chosen among instruction sets at run time, and cuda::<op>.
#pragma once

struct CUstream_st;

namespace altmin::cuda {

using Stream = CUstream_st*;  // CUDA's own cudaStream_t, without its header

}  // namespace altmin::cuda

namespace altmin::cpu {

// "avx2" where the processor and the operating system offer AVX2 and FMA, else "baseline".
const char* instruction_set();
// Forces one by name for tests; false if this processor or build lacks it.
bool use_instruction_set(const char* name);
extern bool avx2_in_use;

}  // namespace altmin::cpu

#if defined(ALTMIN_WITH_AVX2)
#define ALTMIN_CPU_OP(op, result, Arguments)                            \
  namespace altmin::cpu {                                               \
  namespace baseline {                                                  \
  template <typename T>                                                 \
  result op(const Arguments<T>&);                                       \
  }                                                                     \
  namespace avx2 {                                                      \
  template <typename T>                                                 \
  result op(const Arguments<T>&);                                       \
  }                                                                     \
  template <typename T>                                                 \
  result op(const Arguments<T>& arguments) {                            \
    return avx2_in_use ? avx2::op(arguments) : baseline::op(arguments); \
  }                                                                     \
  }
#else
#define ALTMIN_CPU_OP(op, result, Arguments) \
  namespace altmin::cpu {                    \
  namespace baseline {                       \
  template <typename T>                      \
  result op(const Arguments<T>&);            \
  }                                          \
  template <typename T>                      \
  result op(const Arguments<T>& arguments) { \
    return baseline::op(arguments);          \
  }                                          \
  }
#endif

// An op on a CUDA device: launched on the stream, neither waited for nor allocating in the steady state.
#define ALTMIN_CUDA_OP(op, result, Arguments)    \
  namespace altmin::cuda {                       \
  template <typename T>                          \
  result op(const Arguments<T>&, Stream stream); \
  }

#define ALTMIN_OP(op, result, Arguments) \
  ALTMIN_CPU_OP(op, result, Arguments)   \
  ALTMIN_CUDA_OP(op, result, Arguments)

// Compiles the op of this file for both dtypes, in the instruction set's namespace.
#define ALTMIN_INSTANTIATE(op, result, Arguments)     \
  template result op<float>(const Arguments<float>&); \
  template result op<double>(const Arguments<double>&);
