// Parameter blocks: the scalars that change from step to step.
//
// They live in tensors of doubles on the device of the data, so that kernels read them through a pointer and a
// captured CUDA graph replays with new values. Some are written by the host before a step, some by kernels.
#pragma once

#include <cstdint>
#include <iterator>

namespace altmin {

// One row per code. The displacement of a code is stored as delta with c0 - c = unit * delta.
struct CodeScalars {
  // written by the host
  double step_size;   // eta; negative: 1 / (1 + curvature * sigma_squared)
  double curvature;   // bound of the downstream term's second derivative, without the factor sigma_max(W)^2
  double downstream;  // factor of the pulled-back residual in the gradient
  double anchor;      // factor of c - c0 in the gradient
  double momentum;    // Nesterov momentum
  double threshold;   // soft threshold of the code per unit of step size; 0: none
  double normalised;  // > 0: scale is the RMS displacement, over so many times the elements held; 0: it is unit
  // written by kernels
  double sigma_squared;    // power_iteration: estimate of sigma_max(W)^2 of the stage above
  double step_taken;       // code_step: the eta of the last step
  double unit;             // code_step: the unit of delta
  double scale;            // code_step: divisor of the stage's weight objective
  double damping;          // code_step: scale over RMS displacement, set by the top code for all codes
  double moved;            // code_step: RMS of c0 - c
  double residual_square;  // weight_residual: sum of squares of its residual
};

inline constexpr const char* code_scalar_names[] = {
    "step_size",     "curvature",  "downstream", "anchor", "momentum", "threshold", "normalised",
    "sigma_squared", "step_taken", "unit",       "scale",  "damping",  "moved",     "residual_square"};
inline constexpr int64_t code_scalar_count = std::size(code_scalar_names);
static_assert(sizeof(CodeScalars) == code_scalar_count * sizeof(double));

// One row per parameter tensor of the weight phase; all written by the host.
struct UpdateScalars {
  double learning_rate;
  double gradient_factor;  // multiplies the gradient, such as 1/B
  double decay;            // decoupled weight decay, per unit of learning rate
  double threshold;        // soft threshold of the weight, per unit of learning rate
};

inline constexpr const char* update_scalar_names[] = {"learning_rate", "gradient_factor", "decay", "threshold"};
inline constexpr int64_t update_scalar_count = std::size(update_scalar_names);
static_assert(sizeof(UpdateScalars) == update_scalar_count * sizeof(double));

// Adam's own; `step` is advanced by the kernel.
struct AdamScalars {
  double beta1, beta2, epsilon, step;
};

inline constexpr const char* adam_scalar_names[] = {"beta1", "beta2", "epsilon", "step"};
inline constexpr int64_t adam_scalar_count = std::size(adam_scalar_names);
static_assert(sizeof(AdamScalars) == adam_scalar_count * sizeof(double));

// One block per stage that remembers its past in two matrices.
struct MemoryScalars {
  double forgetting;  // memory_update: share of the past that is dropped; below 0 the past grows
  double threshold;   // bcd_columns: soft threshold of the weights, times A_jj
  double damping;     // bcd_columns: what A's diagonal is raised by, in units of its mean
};

inline constexpr const char* memory_scalar_names[] = {"forgetting", "threshold", "damping"};
inline constexpr int64_t memory_scalar_count = std::size(memory_scalar_names);
static_assert(sizeof(MemoryScalars) == memory_scalar_count * sizeof(double));

}  // namespace altmin
