// A choice between two numbers that compilers turn into arithmetic.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace altmin::cpu::ALTMIN_ISA {

// a where the condition holds, otherwise b. Where the result is stored, `condition ? a : b` makes GCC leave out the
// store with a mask (vmaskmovps), which AMD's Zen 1 to 3 do in microcode, at ten nanoseconds a number.
template <typename T>
inline T select(bool condition, T a, T b) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  Bits x, y;
  std::memcpy(&x, &a, sizeof x);
  std::memcpy(&y, &b, sizeof y);
  const Bits all = condition ? ~Bits(0) : Bits(0);
  x = (x & all) | (y & ~all);
  T result;
  std::memcpy(&result, &x, sizeof x);
  return result;
}

}  // namespace altmin::cpu::ALTMIN_ISA
