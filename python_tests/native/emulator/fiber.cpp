#include "fiber.h"

#include <sys/mman.h>

#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {
namespace {

constexpr size_t guard_bytes = 4 << 10;

Fiber* entering;

// AddressSanitizer must be told of every switch of stacks.
void leave_stack(void** state, const void* next, size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(state, next, bytes);
#else
  (void)state, (void)next, (void)bytes;
#endif
}

void arrive_on_stack(void* state, const void** previous, size_t* bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(state, previous, bytes);
#else
  (void)state, (void)previous, (void)bytes;
#endif
}

}  // namespace

Fiber::Fiber(void (*body)()) : body_(body) {
  // Stacks that all began at the same offset within a page would share few lines of the cache.
  static size_t count = 0;
  skew_ = count++ * 1088 % (16 << 10);
  void* memory = mmap(nullptr, guard_bytes + stack_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, guard_bytes, PROT_NONE);
  stack_ = static_cast<char*>(memory) + guard_bytes;
}

Fiber::~Fiber() { munmap(stack_ - guard_bytes, guard_bytes + stack_bytes); }

void Fiber::enter() {
  Fiber* self = entering;
  arrive_on_stack(nullptr, &self->owner_stack_, &self->owner_stack_bytes_);
  for (;;) self->body_();
}

void Fiber::resume() {
  void* state = nullptr;
  leave_stack(&state, stack_, stack_bytes);
  if (_setjmp(outside_) == 0) {
    if (started_) _longjmp(inside_, 1);
    started_ = true;
    entering = this;
    getcontext(&entry_);
    entry_.uc_stack.ss_sp = stack_;
    entry_.uc_stack.ss_size = stack_bytes - skew_;
    entry_.uc_link = nullptr;
    makecontext(&entry_, &Fiber::enter, 0);
    setcontext(&entry_);
  }
  arrive_on_stack(state, nullptr, nullptr);
}

void Fiber::suspend() {
  leave_stack(&sanitizer_inside_, owner_stack_, owner_stack_bytes_);
  if (_setjmp(inside_) == 0) _longjmp(outside_, 1);
  arrive_on_stack(sanitizer_inside_, &owner_stack_, &owner_stack_bytes_);
}

void Fiber::restart() {
  started_ = false;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack_, stack_bytes);
#endif
}

}  // namespace emulator
