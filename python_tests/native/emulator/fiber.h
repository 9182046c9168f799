// A thread of control with a stack of its own, switched to and from by the one thread that owns it.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdint>

namespace emulator {

class Fiber {
 public:
  static constexpr size_t stack_bytes = 128 << 10;

  explicit Fiber(void (*body)());
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Runs the body, over and over, until it suspends; the next call goes on from there.
  void resume();
  // Called on the fiber: returns from resume().
  void suspend();
  // Forgets where the body is; the next resume() begins it anew.
  void restart();
  uintptr_t stack() const { return reinterpret_cast<uintptr_t>(stack_); }

 private:
  static void enter();

  void (*body_)();
  char* stack_;
  size_t skew_;
  bool started_ = false;
  ucontext_t entry_;
  jmp_buf inside_, outside_;
  void* sanitizer_inside_ = nullptr;
  const void* owner_stack_ = nullptr;
  size_t owner_stack_bytes_ = 0;
};

}  // namespace emulator
