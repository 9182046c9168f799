// What lets one header serve g++ and nvcc.
#pragma once

#if defined(__CUDACC__)
#define ALTMIN_HOST_DEVICE __host__ __device__
#else
#define ALTMIN_HOST_DEVICE
#endif
