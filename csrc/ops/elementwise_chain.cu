// Elementwise steps in one kernel on a CUDA device: a thread does all of them to a pack of elements. What
// they read from outside is loaded once, first of all; what a step hands to the next one stays in registers,
// and what it hands to a later one in shared memory, where every thread has places of its own.
#include "ops/formulas_cuda.h"

namespace edfcore::cuda {

namespace {

constexpr int chain_threads = 128, most_operands = 3;
constexpr int at_once = 4;  // loads of a thread

// A place among a thread's own in shared memory; or:
enum : std::int8_t { before = -1, nowhere = -2 };  // what the link before made; not kept

// A step of a chain.
struct Link {
  Formula formula;
  std::int8_t in[most_operands], out;
  void* to;  // null where only the chain reads it
  double scalar, scalar2;
};

struct Links {
  std::int64_t size;
  int count, loads;
  Link link[most_chain_values];
  const void* from[most_chain_values];     // what is loaded into the first places
  std::int64_t period[most_chain_values];  // of how many elements, again and again
  bool is_bfloat;                          // of Half
};

template <class T>
constexpr int pack_of = sizeof(T) == 8 ? 2 : 4;

template <class T, int V>
struct Operation {
  using C = Computed<T>;
  const Pack<T, V>&a, &b, &c;
  bool is_bfloat;
  Pack<T, V> y;

  template <class F, class... Packs>
  __device__ void map(const F& f, const Packs&... x) {
    EDF_UNROLL
    for (int v = 0; v < V; ++v) y.v[v] = rounded_to<T>(f(wide(x.v[v], is_bfloat)...), is_bfloat);
  }
  template <class F>
  __device__ void unary(const F& f) {
    map(f, a);
  }
  template <class F>
  __device__ void binary(const F& f) {
    map(f, a, b);
  }
  template <class F>
  __device__ void ternary(const F& f) {
    map(f, a, b, c);
  }

  __device__ void run(const Link& link) {
    switch (link.formula) {
#define EDF_UNARY(name, functor, reads) \
  case Formula::name:                   \
    return unary(Value<functor>{});     \
  case Formula::name##_grad:            \
    return ternary(Gradient<functor>{});
      EDF_UNARY_OPS(EDF_UNARY)
#undef EDF_UNARY
      case Formula::add:
        return binary(Add{});
      case Formula::sub:
        return binary(Sub{});
      case Formula::mul:
        return binary(Mul{});
      case Formula::div:
        return binary(Div{});
      case Formula::pow:
        return binary(Power{});
      case Formula::maximum:
        return binary(Maximum{});
      case Formula::minimum:
        return binary(Minimum{});
      case Formula::greater_share:
        return ternary(GreaterShare{});
      case Formula::scale:
        return unary(Scale<C>{static_cast<C>(link.scalar)});
      case Formula::leaky_relu:
        return unary(LeakyRelu<C>(link));
      case Formula::leaky_relu_grad:
        return binary(LeakyRelu<C>(link));
      case Formula::clip:
        return unary(Clip<C>(link));
      case Formula::clip_grad:
        return binary(Clip<C>(link));
      default:
        return;
    }
  }
};

// The first `packs` threads do V elements each, the rest one each.
template <class T>
__global__ void __launch_bounds__(chain_threads, sizeof(T) == 8 ? roomy : 1024 / chain_threads)
    run_links(Links links, std::int64_t packs, std::int64_t threads) {
  constexpr int V = pack_of<T>;
  using Own = Raw<T, V>;
  const std::int64_t thread = thread_number();
  if (thread >= threads) return;
  const bool whole = thread < packs;
  const std::int64_t first = whole ? thread * V : packs * V + (thread - packs);
  Own* const own = dynamic_shared<Own>() + threadIdx.x;
  const auto get = [&](int place) {
    const Own raw = own[place * chain_threads];
    Pack<T, V> pack;
    memcpy(&pack, &raw, sizeof raw);
    return pack;
  };
  const auto put = [&](int place, const Pack<T, V>& pack) {
    Own raw;
    memcpy(&raw, &pack, sizeof raw);
    own[place * chain_threads] = raw;
  };
  for (int i = 0; i < links.loads; i += at_once) {
    Pack<T, V> packs_held[at_once] = {};
    EDF_UNROLL
    for (int j = 0; j < at_once; ++j) {
      if (i + j >= links.loads) continue;
      const T* from = static_cast<const T*>(links.from[i + j]);
      if (links.period[i + j] < links.size) {
        const std::int64_t period = links.period[i + j];
        std::int64_t at = divide(first, period).remainder;
        EDF_UNROLL
        for (int v = 0; v < V; ++v) {
          packs_held[j].v[v] = from[at];
          at = at + 1 == period ? 0 : at + 1;
        }
      } else if (whole) {
        packs_held[j] = load_pack<T, V>(from + first);
      } else {
        packs_held[j].v[0] = from[first];
      }
    }
    EDF_UNROLL
    for (int j = 0; j < at_once; ++j)
      if (i + j < links.loads) put(i + j, packs_held[j]);
  }
  Pack<T, V> last = {};
  EDF_UNROLL_BY(1)
  for (int i = 0; i < links.count; ++i) {
    const Link& link = links.link[i];
    Pack<T, V> x[most_operands];
    EDF_UNROLL
    for (int k = 0; k < most_operands; ++k) {
      x[k] = last;
      if (link.in[k] >= 0) x[k] = get(link.in[k]);
    }
    Operation<T, V> operation{x[0], x[1], x[2], links.is_bfloat, {}};
    operation.run(link);
    last = operation.y;
    if (link.out >= 0) put(link.out, last);
    if (link.to == nullptr) continue;
    T* const to = static_cast<T*>(link.to) + first;
    if (whole)
      store_pack(to, last);
    else
      *to = last.v[0];
  }
}

// Which values there are, in the order of their places: those from outside first.
struct Places {
  std::int32_t value[most_chain_values];
  int count = 0;

  int find(std::int32_t wanted) const {
    for (int i = 0; i < count; ++i)
      if (value[i] == wanted) return i;
    return nowhere;
  }
  int add(std::int32_t one) {
    value[count] = one;
    return count++;
  }
};

Links links_of(const Chain& chain, Places& places) {
  Links links{};
  links.count = static_cast<int>(chain.count);
  links.size = chain.steps[0].out[0].size;
  const auto made_by = [&](std::int32_t value) {  // which step; -1: none
    const std::int32_t* v = chain.values;
    for (int s = 0; s < links.count; ++s) {
      v += chain.steps[s].n_in;
      if (*v++ == value) return s;
    }
    return -1;
  };
  const auto each_input = [&](const auto& see) {
    const std::int32_t* v = chain.values;
    for (int s = 0; s < links.count; ++s, ++v)
      for (int i = 0; i < chain.steps[s].n_in; ++i, ++v) see(s, i, *v, made_by(*v));
  };
  each_input([&](int s, int i, std::int32_t value, int made) {
    const View& view = chain.steps[s].in[i];
    if (made >= 0 || view.data == nullptr || places.find(value) >= 0)
      return;  // without memory: it is not read
    const int place = places.add(value);
    links.from[place] = view.data;
    links.period[place] = view.size;
  });
  links.loads = places.count;
  each_input([&](int s, int, std::int32_t value, int made) {
    if (made >= 0 && made < s - 1 && places.find(value) < 0) places.add(value);
  });
  each_input([&](int s, int i, std::int32_t value, int made) {
    const int place = places.find(value);
    links.link[s].in[i] =
        static_cast<std::int8_t>((made >= 0 && made == s - 1) || place < 0 ? before : place);
  });
  const std::int32_t* v = chain.values;
  for (int s = 0; s < links.count; ++s, ++v) {
    const Launch& step = chain.steps[s];
    v += step.n_in;
    Link& link = links.link[s];
    for (int i = step.n_in; i < most_operands; ++i) link.in[i] = before;
    link.formula = step.formula;
    link.out = static_cast<std::int8_t>(places.find(*v));
    link.to = step.out[0].data;
    link.scalar = step.attrs->scalar;
    link.scalar2 = step.attrs->scalar2;
  }
  return links;
}

template <class T>
void run(const Launch& l, const Links& links, int places) {
  constexpr int V = pack_of<T>;
  bool wide = true;
  for (int i = 0; i < links.loads; ++i)
    wide = wide && (links.period[i] < links.size || aligned(links.from[i], sizeof(T) * V));
  for (int i = 0; i < links.count; ++i) wide = wide && aligned(links.link[i].to, sizeof(T) * V);
  const std::int64_t packs = wide ? links.size / V : 0, threads = packs + (links.size - packs * V);
  launch(run_links<T>, blocks_for(threads, chain_threads), chain_threads,
         static_cast<std::size_t>(places) * chain_threads * sizeof(T) * V, l.stream, links, packs, threads);
}

}  // namespace

void chain_kernel(const Chain& chain) {
  const Launch& l = chain.steps[0];
  if (l.out[0].size == 0) return;
  Places places;
  Links links = links_of(chain, places);
  links.is_bfloat = l.out[0].dtype == DType::bf16;
  visit_stored(l.out[0].dtype, [&](auto t) { run<decltype(t)>(l, links, places.count); });
}

}  // namespace edfcore::cuda
