#include "device.h"

#include "launch.h"

namespace altmin::cuda {

int compiled_version() { return CUDART_VERSION; }

int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : -1;
}

DeviceGuard::DeviceGuard(int device) : before_(device) {
  check(cudaGetDevice(&before_), "cudaGetDevice");
  if (before_ != device) check(cudaSetDevice(device), "cudaSetDevice");
}

// Setting a device that was in use a moment ago does not fail.
DeviceGuard::~DeviceGuard() { cudaSetDevice(before_); }

}  // namespace altmin::cuda
