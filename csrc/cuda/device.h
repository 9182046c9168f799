// What this build and this machine know of CUDA.
#pragma once

namespace altmin::cuda {

// Version the kernels were compiled for, as 1000 major + 10 minor; 0 in a build without CUDA.
int compiled_version();
// How many devices the driver offers, or -1 where there is no usable driver.
int device_count();

// Makes a device the current one, and the one before it again.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_;
};

}  // namespace altmin::cuda
