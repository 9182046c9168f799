// What lets one header serve g++ and nvcc, and every instruction set.
#pragma once

#if defined(__CUDACC__)
#define ALTMIN_HOST_DEVICE __host__ __device__
#else
#define ALTMIN_HOST_DEVICE
#endif

// Kernels are compiled once per instruction set; a namespace of its own for each keeps the linker from taking
// the AVX2 copy of an inline function for the baseline.
#if !defined(ALTMIN_ISA)
#define ALTMIN_ISA portable
#endif
