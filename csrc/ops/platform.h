// Definitions by which one header serves g++ and nvcc, and every instruction set.
#pragma once

#if defined(__CUDACC__)
#define ALTMIN_HOST_DEVICE __host__ __device__
#else
#define ALTMIN_HOST_DEVICE
#endif

// Kernels are compiled once per instruction set, each in its own namespace. Otherwise the linker might take the AVX2
// copy of an inline function for the baseline.
#if !defined(ALTMIN_ISA)
#define ALTMIN_ISA portable
#endif
