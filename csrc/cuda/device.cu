#include "device.h"

#include <cuda_runtime.h>

namespace altmin::cuda {

int compiled_version() { return CUDART_VERSION; }

int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : -1;
}

}  // namespace altmin::cuda
