// The list of ops: one visible line each. Elementwise unary ops are listed in ops/elementwise.h.
#pragma once

#include <span>
#include <string_view>

#include "ops/elementwise.h"
#include "ops/op.h"

// clang-format off
#define EDF_OPS(X)                                                                                        \
  X(add) X(sub) X(mul) X(div)       /* (a, b): elementwise with NumPy broadcasting */                      \
  X(pow) X(maximum) X(minimum)      /* (a, b): the same */                                                \
  X(pow_partial)                    /* (g, a, b; ints = {i, j}): internal; g d^(i+j) a^b / da^i db^j */   \
  X(greater_share)                  /* (g, a, b): internal; g where a > b, half of it where they are equal */ \
  X(where)                          /* (condition, a, b): a where the condition is not 0, else b */       \
  X(where_grad)                     /* (g, condition; ints = {side}): internal; g on that side, else 0 */ \
  X(leaky_relu)                     /* (x; scalar = slope below zero) */                                  \
  X(leaky_relu_grad)                /* (g, x; scalar): internal */                                        \
  X(clip)                           /* (x; scalar = lower bound, scalar2 = upper bound) */                \
  X(clip_grad)                      /* (g, x; scalar, scalar2): internal; g within the bounds, else 0 */  \
  X(cast)                           /* (x; dtype) */                                                      \
  X(autocast)                       /* (x, ...; ints = {Autocast}, dtype): internal; x as the op after it takes it */ \
  X(scale)                          /* (x; scalar): x * scalar */                                         \
  X(fill_like)                      /* (x; scalar): internal; every element is scalar */                  \
  X(sum) X(mean) X(max) X(min)      /* (x; ints = axes, keepdims) */                                      \
  X(var)                            /* (x; ints = axes, keepdims, scalar = ddof) */                       \
  X(argmax)                         /* (x; ints = {axis}, keepdims): int64; the first of ties */          \
  X(max_mask)                       /* (x; ints = axes): internal; 1/ties where x is its group's maximum */ \
  X(sum_to)                         /* (x; ints = shape): internal; undoes broadcasting from shape */      \
  X(sum_to_sgd)                     /* (p, x; ints = shape, scalar): internal; p -= scalar * sum_to(x), in place */ \
  X(broadcast_to)                   /* (x; ints = shape) */                                               \
  X(matmul)                         /* (a, b; trans_a, trans_b): 2-D, or batches of such */                \
  X(matmul_sum)                     /* (c, a, b, ...; trans_a, trans_b): internal; c + a b + ... */         \
  X(matmul_sgd)                     /* (p, a, b; trans_a, trans_b, scalar): internal; p -= scalar * (a b), in place */ \
  X(affine)                         /* (x, W, b): x W + b; x is (B, I), W (I, O), b (O,) */                \
  X(reshape)                        /* (x; ints = shape, one -1 allowed) */                                \
  X(transpose)                      /* (x; ints = permutation; none given: reversed) */                    \
  X(slice)                          /* (x; ints = {axis, start, stop, step}) */                            \
  X(slice_grad)                     /* (g; ints = {axis, start, stop, step, n}): internal; g among zeros */ \
  X(concat) X(stack)                /* (x, ...; ints = {axis}): along an axis, along a new one */          \
  X(gather_rows)                    /* (table, index): table[index]; index int32/int64/uint8, any shape */ \
  X(scatter_add_rows)               /* (g, index; ints = {rows}): internal; the vjp of gather_rows */      \
  X(take_along_last)                /* (x, index): x (..., C), index (...) or (..., K) */                  \
  X(put_along_last)                 /* (g, index; ints = {C}, keepdims: index is (..., K)): internal */      \
  X(softmax) X(log_softmax)         /* (x): over the last axis */                                         \
  X(softmax_grad)                   /* (g, p): internal; p * (g - <g, p>) */                               \
  X(log_softmax_grad)               /* (g, l): internal; g - exp(l) * sum(g) */                            \
  X(log_loss)                       /* (p, y): -log p[.., y]; p (..., C), y (...) */                       \
  X(log_loss_scores)                /* (s, y): -log softmax(s)[.., y] */                                   \
  X(log_loss_scores_grad)           /* (g, s, y): internal; (softmax(s) - onehot(y)) * g[.., None] */      \
  X(log_loss_scores_both)           /* (s, y, g): internal; log_loss_scores_grad and log_loss_scores */    \
  X(log_loss_soft)                  /* (p, q): -<q, log p>; p, q (..., C) */                                \
  X(log_loss_soft_grad)             /* (g, p, q): internal; -g[.., None] * q / p */                        \
  X(log_loss_soft_scores)           /* (s, q): -<q, log softmax(s)> */                                     \
  X(log_loss_soft_scores_grad)      /* (g, s, q): internal; (softmax(s) * sum(q) - q) * g[.., None] */     \
  X(log_loss_soft_scores_both)      /* (s, q, g): internal; log_loss_soft_scores_grad and log_loss_soft_scores */ \
  X(sgd)                            /* (p, g; scalar): p -= scalar * g, in place; skipped when status is set */ \
  X(momentum)                       /* (p, g, m, n; scalar = rate, scalar2 = decay): internal; m = decay m + g, p -= rate m, n += 1 */ \
  X(adam)                           /* (p, g, m, v, (beta1, beta2, epsilon), n; scalar, scalar2): internal; see update.cpp */
// clang-format on

namespace edfcore::ops {

#define EDF_DECLARE_OP(name) extern const Op name;
#define EDF_DECLARE_UNARY(name, functor, reads) extern const Op name, name##_grad, name##_grad2;
EDF_OPS(EDF_DECLARE_OP)
EDF_UNARY_OPS(EDF_DECLARE_UNARY)
#undef EDF_DECLARE_UNARY
#undef EDF_DECLARE_OP

std::span<const Op* const> all();
const Op* find(std::string_view name);  // null when there is none
std::int32_t index_of(const Op& op);    // its place in all()

}  // namespace edfcore::ops
