// memory_update: adds a minibatch to the two matrices in which a stage remembers its past
//
//   gram  <- (1 - forgetting) gram  + sum over the batch of a~ a~^T
//   cross <- (1 - forgetting) cross + sum over the batch of c a~^T
//
// or, if it is to subtract, takes it out of them, with a minus before both sums. a~ = [a; 1] if gram has one row more
// than the activation has columns, else a~ = a. A negative forgetting lets the past grow. Both triangles of gram are
// written from one computation, so that it stays symmetric to the last bit; or only the upper one, which halves what
// is written, and leaves the other as it is. The order of the sums is fixed. Nothing
// may overlap. The past may also lie elsewhere, and stays there: gram and cross are then only written.
#pragma once

#include <cstdint>

#include "backend.h"
#include "scalars.h"

namespace altmin {

template <typename T>
struct MemoryUpdate {
  int64_t batch, n_in, n_out;
  int64_t n_gram;       // n_in, or n_in + 1 with the bias
  const T* activation;  // a (batch, n_in)
  const T* code;        // c (batch, n_out)
  T* gram;              // A (n_gram, n_gram), in and out
  T* cross;             // B (n_out, n_gram), in and out
  const MemoryScalars* scalars;
  bool subtract;
  bool upper;                           // whether only the upper triangle of gram is written
  const T *gram_before, *cross_before;  // what is added to, shaped like both; null for these themselves
};

}  // namespace altmin

ALTMIN_WIDE_OP(memory_update, void, MemoryUpdate)
