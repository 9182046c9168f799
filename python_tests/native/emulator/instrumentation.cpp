// What g++ calls in kernels compiled with -fsanitize=thread, and with -fsanitize=bounds and its like.
//
// The sanitizers' own libraries are not linked: these are their entry points.
#include <cstdint>
#include <string>

#include "machine.h"

using emulator::Access;
using emulator::check_access;

#define HERE __builtin_return_address(0)

extern "C" {

#define ACCESSES(bytes)                                                                                  \
  void __tsan_read##bytes(void* address) { check_access(Access::read, address, bytes, HERE); }           \
  void __tsan_write##bytes(void* address) { check_access(Access::write, address, bytes, HERE); }         \
  void __tsan_unaligned_read##bytes(void* address) { check_access(Access::read, address, bytes, HERE); } \
  void __tsan_unaligned_write##bytes(void* address) { check_access(Access::write, address, bytes, HERE); }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

void __tsan_read_range(void* address, size_t bytes) { check_access(Access::read, address, bytes, HERE); }
void __tsan_write_range(void* address, size_t bytes) { check_access(Access::write, address, bytes, HERE); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

// The host's code is compiled with the kernels and may use std::atomic and static variables; kernels may not.
static void refuse_in_kernel() {
  if (emulator::machine.thread) emulator::fail("Kernels must use CUDA's atomics, not those of C++.");
}

#define ATOMICS(bits, T)                                                                                     \
  T __tsan_atomic##bits##_load(const volatile T* address, int) {                                             \
    refuse_in_kernel();                                                                                      \
    return __atomic_load_n(address, __ATOMIC_SEQ_CST);                                                       \
  }                                                                                                          \
  void __tsan_atomic##bits##_store(volatile T* address, T value, int) {                                      \
    refuse_in_kernel();                                                                                      \
    __atomic_store_n(address, value, __ATOMIC_SEQ_CST);                                                      \
  }                                                                                                          \
  T __tsan_atomic##bits##_exchange(volatile T* address, T value, int) {                                      \
    refuse_in_kernel();                                                                                      \
    return __atomic_exchange_n(address, value, __ATOMIC_SEQ_CST);                                            \
  }                                                                                                          \
  T __tsan_atomic##bits##_fetch_add(volatile T* address, T value, int) {                                     \
    refuse_in_kernel();                                                                                      \
    return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);                                             \
  }                                                                                                          \
  T __tsan_atomic##bits##_fetch_sub(volatile T* address, T value, int) {                                     \
    refuse_in_kernel();                                                                                      \
    return __atomic_fetch_sub(address, value, __ATOMIC_SEQ_CST);                                             \
  }                                                                                                          \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile T* address, T* expected, T value, int, int) {   \
    refuse_in_kernel();                                                                                      \
    return __atomic_compare_exchange_n(address, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }
ATOMICS(8, uint8_t)
ATOMICS(32, uint32_t)
ATOMICS(64, uint64_t)

struct Location {
  const char* file;
  uint32_t line, column;
};
struct TypeDescription {
  uint16_t kind, information;
  char name[1];
};
struct IndexOutOfBounds {
  Location location;
  const TypeDescription *array, *index;
};

static void report(const Location& location, const std::string& what) {
  const emulator::Machine& machine = emulator::machine;
  const std::string who = machine.thread
                              ? emulator::sentence(emulator::kernel_name(), ": ",
                                                   emulator::name(*machine.block, machine.thread->number))
                              : "the host's code: it";
  emulator::fail(emulator::sentence("Undefined behaviour in ", who, " ", what, " at ", location.file, ":",
                                    location.line, "."));
}

void __ubsan_handle_out_of_bounds(const IndexOutOfBounds* data, int64_t index) {
  report(data->location, emulator::sentence("takes element ", index, " of ", data->array->name));
}
#define OVERFLOW(operation, words)                                                             \
  void __ubsan_handle_##operation##_overflow(const Location* location, uintptr_t, uintptr_t) { \
    report(*location, words);                                                                  \
  }
OVERFLOW(add, "overflows in an addition")
OVERFLOW(sub, "overflows in a subtraction")
OVERFLOW(mul, "overflows in a multiplication")
OVERFLOW(negate, "overflows in a negation")
void __ubsan_handle_divrem_overflow(const Location* location, uintptr_t, uintptr_t) {
  report(*location, "divides by zero");
}
void __ubsan_handle_shift_out_of_bounds(const Location* location, uintptr_t, uintptr_t) {
  report(*location, "shifts by too many bits");
}
// Also of accesses that g++ splits into smaller ones, as nvcc would not.
void __ubsan_handle_type_mismatch_v1(const Location* location, uintptr_t address) {
  report(*location, emulator::sentence("makes a misaligned access to 0x", std::hex, address));
}
}
