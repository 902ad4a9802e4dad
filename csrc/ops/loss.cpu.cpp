// CPU kernels of the log loss. The loss of a row whose label is out of range is 0, and the label is reported.
#include "ops/index_cpu.h"
#include "ops/softmax_cpu.h"

namespace edfcore::EDF_ISA {

namespace {

std::int64_t classes(const View& x) { return x.dims[x.rank - 1]; }

template <class T>
double weighted(T weight, T x) {
  const double product = double(weight) * double(x);
  return weight == T(0) ? 0.0 : product;
}

// What is to be made of scores: their gradient, from that of the loss, which may take their memory; and the
// loss. Null, or without data: not that one. The loss is the same with and without a gradient.
struct Wanted {
  const View *g, *grad, *loss;
};

template <class T>
T* data_of(const View* view) {
  return view ? pointer<T>(*view) : nullptr;
}

void of_scores(const View& s, const View& labels, const Wanted& wanted) {
  const std::int64_t n = classes(s);
  visit_floating(s.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *from = pointer<const T>(s), *g = data_of<const T>(wanted.g);
    T *grad = data_of<T>(wanted.grad), *loss = data_of<T>(wanted.loss);
    short_or_long_rows<T>(
        labels.size, n, softmax_work,
        [&](auto& few, std::int64_t first, std::int64_t count, std::int64_t room) {
          few.load(from + first * n, n, count, room);
          const auto top = few.each(few.max(n));
          few.subtract(n, top.all());
          double total[few.rows];
          exp_short(few, n, total);
          if (loss) {
            const auto log_sum = logs<SameRows<decltype(few)>>(total);
            for (std::int64_t l = 0; l < count; ++l) {
              const std::int64_t i = first + l, y = index_at(labels, i);
              loss[i] = in_range(y, n) ? (top.at[l] - from[i * n + y]) + log_sum.at[l] : T(0);
            }
          }
          if (!grad) return;
          const Divisor all(few.each(total).all());
          for (std::int64_t c = 0; c < n; ++c) few.put(c, all.divide(few.get(c)));
          for (std::int64_t l = 0; l < count; ++l) {
            const std::int64_t y = index_at(labels, first + l);
            if (in_range(y, n)) few.at[y * few.rows + l] -= T(1);
          }
          const auto factors = few.load_each(g + first, count).all();
          for (std::int64_t c = 0; c < n; ++c) few.put(c, few.get(c) * factors);
          few.store(grad + first * n, n, count);
        },
        [&](std::int64_t begin, std::int64_t end) {
          const auto lose = [&](std::int64_t i, std::int64_t y, T top, double log) {
            if (loss) loss[i] = in_range(y, n) ? (top - from[i * n + y]) + static_cast<T>(log) : T(0);
          };
          if (!grad) {
            rows_of_powers<false>(from, grad, n, begin, end, [&](std::int64_t i, T top, Powers<T>& powers) {
              lose(i, index_at(labels, i), top, powers.log);
            });
            return;
          }
          rows_of_powers<true>(from, grad, n, begin, end, [&](std::int64_t i, T top, Powers<T>& powers) {
            const std::int64_t y = index_at(labels, i);
            T* to = grad + i * n;
            lose(i, y, top, powers.log);
            const Divisor total(static_cast<T>(powers.total));
            const T factor = g[i];
            T label = 0;
            if (in_range(y, n)) label = y < powers.whole ? to[y] : powers.rest.at[y - powers.whole];
            powers.map(to, [=](T e) { return total.divide(e) * factor; });
            if (in_range(y, n)) to[y] = (total.divide(label) - T(1)) * factor;
          });
        },
        few_short);
  });
}

void of_soft_scores(const View& s, const View& weights, const Wanted& wanted) {
  const std::int64_t n = classes(s);
  visit_floating(s.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *from = pointer<const T>(s), *towards = pointer<const T>(weights),
            *g = data_of<const T>(wanted.g);
    T *grad = data_of<T>(wanted.grad), *loss = data_of<T>(wanted.loss);
    short_or_long_rows<T>(
        wanted.g ? wanted.g->size : wanted.loss->size, n, softmax_work,
        [=](auto& few, std::int64_t first, std::int64_t count, std::int64_t room) {
          SameRows<decltype(few)> q;
          few.load(from + first * n, n, count, room);
          q.load(towards + first * n, n, count, room);
          few.subtract(n, few.max(n));
          double below[few.rows] = {}, weight[few.rows], total[few.rows];
          if (loss) few.sum(n, below, [&](std::int64_t i) { return weighted(q.at[i], -few.at[i]); });
          few.sum(n, weight, [&](std::int64_t i) { return q.at[i]; });
          exp_short(few, n, total);
          if (loss) {
            const auto log_sum = logs<SameRows<decltype(few)>>(total);
            for (std::int64_t l = 0; l < count; ++l)
              loss[first + l] = static_cast<T>(below[l] + weight[l] * double(log_sum.at[l]));
          }
          if (!grad) return;
          const Divisor all(few.each(total).all());
          const auto each = few.each(weight).all();
          const auto factors = few.load_each(g + first, count).all();
          for (std::int64_t c = 0; c < n; ++c)
            few.put(c, (all.divide(few.get(c)) * each - q.get(c)) * factors);
          few.store(grad + first * n, n, count);
        },
        [=](std::int64_t begin, std::int64_t end) {
          const auto lose = [=](std::int64_t i, double weight, T top, double log) {
            if (!loss) return;
            const T *row = from + i * n, *q = towards + i * n;
            const double below =
                fold<SumFold, T>(n, [=](std::int64_t c) { return weighted(q[c], top - row[c]); });
            loss[i] = static_cast<T>(below + (n > 0 ? weight * double(static_cast<T>(log)) : 0.0));
          };
          if (!grad) {
            rows_of_powers<false>(from, grad, n, begin, end, [=](std::int64_t i, T top, Powers<T>& powers) {
              lose(i, sum_of(towards + i * n, n), top, powers.log);
            });
            return;
          }
          rows_of_powers<true>(from, grad, n, begin, end, [=](std::int64_t i, T top, Powers<T>& powers) {
            const T* q = towards + i * n;
            T* to = grad + i * n;
            const double weight = sum_of(q, n);
            lose(i, weight, top, powers.log);
            powers.rest.store_some(to + powers.whole);
            const Divisor all(static_cast<T>(powers.total));
            const T each = static_cast<T>(weight), factor = g[i];
            EDF_INDEPENDENT
            for (std::int64_t c = 0; c < n; ++c) to[c] = (all.divide(to[c]) * each - q[c]) * factor;
          });
        },
        few_short);
  });
}

}  // namespace

void log_loss_kernel(const Launch& launch) {
  const View &p = launch.in[0], &labels = launch.in[1];
  const std::int64_t n = classes(p);
  check_indices(launch, 1, n);
  visit_floating(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* from = pointer<const T>(p);
    T* loss = pointer<T>(launch.out[0]);
    parallel_ranges(labels.size, softmax_work, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t y = index_at(labels, i);
        loss[i] = in_range(y, n) ? -log_(from[i * n + y]) : T(0);
      }
    });
  });
}

void log_loss_scores_kernel(const Launch& l) {
  check_indices(l, 1, classes(l.in[0]));
  of_scores(l.in[0], l.in[1], {nullptr, nullptr, &l.out[0]});
}

void log_loss_scores_grad_kernel(const Launch& l) {
  check_indices(l, 2, classes(l.in[1]));
  of_scores(l.in[1], l.in[2], {&l.in[0], &l.out[0], nullptr});
}

void log_loss_scores_both_kernel(const Launch& l) {
  check_indices(l, 1, classes(l.in[0]));
  of_scores(l.in[0], l.in[1], {&l.in[2], &l.out[0], &l.out[1]});
}

// A class of weight 0 adds nothing, however improbable: 0 ln 0 is 0.
void log_loss_soft_kernel(const Launch& launch) {
  const View &p = launch.in[0], &loss = launch.out[0];
  const std::int64_t n = classes(p);
  visit_floating(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* from = pointer<const T>(p);
    const T* weights = pointer<const T>(launch.in[1]);
    T* to = pointer<T>(loss);
    short_or_long_rows<T>(
        loss.size, n, softmax_work,
        [=](auto& few, std::int64_t first, std::int64_t count, std::int64_t room) {
          SameRows<decltype(few)> q;
          few.load(from + first * n, n, count, room);
          q.load(weights + first * n, n, count, room);
          few.map(n, [](T x) { return log_(x); });
          double total[few.rows];
          few.sum(n, total, [&](std::int64_t i) { return weighted(q.at[i], few.at[i]); });
          for (std::int64_t l = 0; l < count; ++l) to[first + l] = static_cast<T>(-total[l]);
        },
        [=](std::int64_t begin, std::int64_t end) {
          for (std::int64_t i = begin; i < end; ++i) {
            const T *row = from + i * n, *q = weights + i * n;
            to[i] = static_cast<T>(
                -fold<SumFold, T>(n, [=](std::int64_t c) { return weighted(q[c], log_(row[c])); }));
          }
        });
  });
}

void log_loss_soft_grad_kernel(const Launch& launch) {
  const View &p = launch.in[1], &out = launch.out[0];
  const std::int64_t n = classes(p);
  visit_floating(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* g = pointer<const T>(launch.in[0]);
    const T* from = pointer<const T>(p);
    const T* weights = pointer<const T>(launch.in[2]);
    T* to = pointer<T>(out);
    parallel_ranges(launch.in[0].size, softmax_work / (n < 1 ? 1 : n),
                    [=](std::int64_t begin, std::int64_t end) {
                      for (std::int64_t i = begin; i < end; ++i) {
                        EDF_INDEPENDENT
                        for (std::int64_t c = i * n; c < (i + 1) * n; ++c) {
                          const T ratio = -(g[i] * weights[c]) / from[c];
                          to[c] = weights[c] == T(0) ? T(0) : ratio;
                        }
                      }
                    });
  });
}

void log_loss_soft_scores_kernel(const Launch& l) {
  of_soft_scores(l.in[0], l.in[1], {nullptr, nullptr, &l.out[0]});
}

void log_loss_soft_scores_grad_kernel(const Launch& l) {
  of_soft_scores(l.in[1], l.in[2], {&l.in[0], &l.out[0], nullptr});
}

void log_loss_soft_scores_both_kernel(const Launch& l) {
  of_soft_scores(l.in[0], l.in[1], {&l.in[2], &l.out[0], &l.out[1]});
}

}  // namespace edfcore::EDF_ISA
