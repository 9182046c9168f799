// The part of DLPack 1.x's C exchange API that this module reads (https://dmlc.github.io/dlpack, dlpack.h).
//
// torch publishes the table as a capsule on its tensor type, so a tensor's memory is reached without linking
// against torch: one build serves every torch that has the table.
#pragma once

#include <cstdint>

namespace altmin::dlpack {

struct Device {
  int32_t type, id;
};
inline constexpr int32_t cpu_device = 1;
// Tests give the number of the CPU here, to run the CUDA kernels on CPU tensors under an emulator.
#if defined(ALTMIN_CUDA_DEVICE)
inline constexpr int32_t cuda_device = ALTMIN_CUDA_DEVICE;
#else
inline constexpr int32_t cuda_device = 2;
#endif

struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};
inline constexpr uint8_t integer_code = 0, unsigned_code = 1, float_code = 2, bfloat_code = 4, complex_code = 5,
                         bool_code = 6;

struct Tensor {
  void* data;
  Device device;
  int32_t dimensions;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};

struct ExchangeApiHeader {
  struct {
    uint32_t major, minor;
  } version;
  ExchangeApiHeader* previous;
};

struct ExchangeApi {
  ExchangeApiHeader header;
  void* allocator;
  void* owned_from_object;
  void* owned_to_object;
  // Fills a view that is valid while the Python object lives; takes no reference. Non-zero: Python error set.
  int (*view_from_object)(void* object, Tensor* view);
  int (*current_work_stream)(int32_t device_type, int32_t device_id, void** stream);
};

}  // namespace altmin::dlpack
