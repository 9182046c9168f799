// Declares an op for every backend: cpu::<op>, chosen among instruction sets at run time, and cuda::<op>.
#pragma once

#include <atomic>

struct CUstream_st;

namespace altmin::cuda {

using Stream = CUstream_st*;  // CUDA's own cudaStream_t, without its header

}  // namespace altmin::cuda

namespace altmin::cpu {

enum class InstructionSet { baseline, avx2, avx512 };

// The widest instruction set that the processor and the operating system support, unless another is forced.
const char* instruction_set();
// Forces an instruction set by name, for tests; false if this processor or build lacks it.
bool use_instruction_set(const char* name);
extern std::atomic<InstructionSet> instruction_set_in_use;

}  // namespace altmin::cpu

#define ALTMIN_DECLARE_CPU_OP(isa, op, result, Arguments) \
  namespace altmin::cpu::isa {                            \
  template <typename T>                                   \
  result op(const Arguments<T>&);                         \
  }
#define ALTMIN_CHOOSE_CPU_OP(op, result, Arguments, choice) \
  namespace altmin::cpu {                                   \
  template <typename T>                                     \
  result op(const Arguments<T>& arguments) {                \
    return choice;                                          \
  }                                                         \
  }

// Compiled for AVX2 and FMA, and for any processor of the kind.
#if defined(ALTMIN_WITH_AVX2)
#define ALTMIN_CPU_OP(op, result, Arguments)             \
  ALTMIN_DECLARE_CPU_OP(baseline, op, result, Arguments) \
  ALTMIN_DECLARE_CPU_OP(avx2, op, result, Arguments)     \
  ALTMIN_CHOOSE_CPU_OP(                                  \
      op, result, Arguments,                             \
      instruction_set_in_use >= InstructionSet::avx2 ? avx2::op(arguments) : baseline::op(arguments))
// Compiled for AVX-512, too: for ops that do much arithmetic on data in the caches.
#define ALTMIN_WIDE_CPU_OP(op, result, Arguments)                                               \
  ALTMIN_DECLARE_CPU_OP(baseline, op, result, Arguments)                                        \
  ALTMIN_DECLARE_CPU_OP(avx2, op, result, Arguments)                                            \
  ALTMIN_DECLARE_CPU_OP(avx512, op, result, Arguments)                                          \
  ALTMIN_CHOOSE_CPU_OP(op, result, Arguments,                                                   \
                       instruction_set_in_use == InstructionSet::avx512 ? avx512::op(arguments) \
                       : instruction_set_in_use == InstructionSet::avx2 ? avx2::op(arguments)   \
                                                                        : baseline::op(arguments))
#else
#define ALTMIN_CPU_OP(op, result, Arguments)             \
  ALTMIN_DECLARE_CPU_OP(baseline, op, result, Arguments) \
  ALTMIN_CHOOSE_CPU_OP(op, result, Arguments, baseline::op(arguments))
#define ALTMIN_WIDE_CPU_OP ALTMIN_CPU_OP
#endif

// Marks a file of cpu/ that is no op but is called by wide ops, and so compiled for AVX-512, too. CMake reads it,
// like ALTMIN_WIDE_OP.
#define ALTMIN_WIDE_PART static_assert(true)

// An op on a CUDA device: launched on the stream without waiting, and without allocating in the steady state.
#define ALTMIN_CUDA_OP(op, result, Arguments)    \
  namespace altmin::cuda {                       \
  template <typename T>                          \
  result op(const Arguments<T>&, Stream stream); \
  }

#define ALTMIN_OP(op, result, Arguments) \
  ALTMIN_CPU_OP(op, result, Arguments)   \
  ALTMIN_CUDA_OP(op, result, Arguments)
#define ALTMIN_WIDE_OP(op, result, Arguments) \
  ALTMIN_WIDE_CPU_OP(op, result, Arguments)   \
  ALTMIN_CUDA_OP(op, result, Arguments)

// Compiles the op of this file for both dtypes, in the instruction set's namespace.
#define ALTMIN_INSTANTIATE(op, result, Arguments)     \
  template result op<float>(const Arguments<float>&); \
  template result op<double>(const Arguments<double>&);
