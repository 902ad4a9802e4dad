// Updates of many tensors in one launch, against a loop over elements: bits, memory between the tensors that
// is nobody's, and how many launches it took. `updates CASE...` prints a line for each; test_updates.py
// judges it.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "device/backend.h"
#include "device/launch.h"

namespace edfcore {
namespace cuda {
void sgd_many(const Launch*, std::int64_t);
void momentum_many(const Launch*, std::int64_t);
void adam_many(const Launch*, std::int64_t);
}  // namespace cuda

namespace {

Backend& gpu() { return cuda_backend(0); }

template <class T>
struct Rule {
  ManyKernel kernel;
  int arrays;  // the parameter, its gradient, and moments
  void (*step)(T rate, T other, const T* h, T* x[4]);

  // With the constants of Adam, and the count of steps.
  int inputs() const { return arrays == 2 ? 2 : arrays == 3 ? 4 : 6; }
};

template <class T>
Rule<T> rule_of(int which) {
  if (which == 0)
    return {cuda::sgd_many, 2, [](T rate, T, const T*, T* x[4]) { *x[0] = *x[0] - rate * *x[1]; }};
  if (which == 1)
    return {cuda::momentum_many, 3, [](T rate, T decay, const T*, T* x[4]) {
              *x[2] = decay * *x[2] + *x[1];
              *x[0] = *x[0] - rate * *x[2];
            }};
  return {cuda::adam_many, 4, [](T rate, T correction, const T* h, T* x[4]) {
            const T g = *x[1];
            *x[2] = h[0] * *x[2] + (T(1) - h[0]) * g;
            *x[3] = h[1] * *x[3] + (T(1) - h[1]) * (g * g);
            *x[0] = *x[0] - rate * (*x[2] / (std::sqrt(*x[3]) / correction + h[2]));
          }};
}

// Memory of floats: on the host what it is to hold, and on the device what it holds.
template <class T>
struct Memory {
  std::vector<T> want;
  T* data = nullptr;

  ~Memory() { gpu().release(data, want.size() * sizeof(T)); }
  void upload() {
    data = static_cast<T*>(gpu().allocate(want.size() * sizeof(T)));
    gpu().upload(data, want.data(), want.size() * sizeof(T));
  }
  bool holds_it() const {
    std::vector<T> found(want.size());
    gpu().download(found.data(), data, found.size() * sizeof(T));
    return std::memcmp(found.data(), want.data(), found.size() * sizeof(T)) == 0;
  }
};

enum Numbers { in_attrs, on_device };

struct Case {
  std::vector<std::int64_t> sizes;
  std::size_t shift = 0;  // of arrays from a multiple of 16 bytes, in elements; more from tensor to tensor
  Numbers numbers = in_attrs;
  bool bad_data = false;
};

// Launches whose arrays lie in `memory`, each between NaNs, and what is to come of them.
template <class T>
class Work {
 public:
  Work(const Case& given, const Rule<T>& rule, unsigned seed) : given_(given), rule_(rule), state_(seed) {
    memory_.want.push_back(T(0.9));
    memory_.want.push_back(T(0.999));
    memory_.want.push_back(T(1e-6));
    std::vector<std::size_t> starts;
    for (std::size_t n = 0; n < given.sizes.size(); ++n) {
      for (int k = 0; k < rule.arrays; ++k) {
        starts.push_back(array(given.sizes[n], given.shift == 0 ? 0 : (given.shift + n) % 4, k == 3));
      }
    }
    memory_.upload();
    attrs_.resize(given.sizes.size());
    views_.resize(given.sizes.size() * most_inputs);
    steps_ = static_cast<std::int64_t*>(gpu().allocate(attrs_.size() * sizeof(std::int64_t)));
    std::vector<double> numbers;
    for (std::size_t n = 0; n < given.sizes.size(); ++n) {
      attrs_[n].scalar = 0.01 * static_cast<double>(n % 7 + 1);
      attrs_[n].scalar2 = 0.5 + 0.01 * static_cast<double>(n % 5);
      numbers.push_back(attrs_[n].scalar);
      numbers.push_back(attrs_[n].scalar2);
      step(n, starts.data() + n * static_cast<std::size_t>(rule.arrays));
    }
    numbers_ = static_cast<double*>(gpu().allocate(numbers.size() * sizeof(double)));
    gpu().upload(numbers_, numbers.data(), numbers.size() * sizeof(double));
    gpu().upload(steps_, before().data(), before().size() * sizeof(std::int64_t));
  }
  ~Work() {
    gpu().release(numbers_, 2 * attrs_.size() * sizeof(double));
    gpu().release(steps_, attrs_.size() * sizeof(std::int64_t));
  }

  void add_launches(std::vector<Launch>& launches) {
    for (std::size_t n = 0; n < attrs_.size(); ++n) {
      Launch l{};
      l.in = l.out = &views_[most_inputs * n];
      l.n_in = rule_.inputs();
      l.attrs = &attrs_[n];
      l.status = gpu().status();
      l.stream = gpu().stream();
      if (given_.numbers == on_device) {
        l.numbers = numbers_ + 2 * n;
        attrs_[n].scalar = attrs_[n].scalar2 = NAN;  // nobody reads them
      }
      launches.push_back(l);
    }
  }
  bool done() const {
    std::vector<std::int64_t> want = before(), found(want.size());
    if (rule_.arrays > 2 && !given_.bad_data)
      for (std::int64_t& steps : want) ++steps;
    gpu().download(found.data(), steps_, found.size() * sizeof(std::int64_t));
    return memory_.holds_it() && found == want;
  }

 private:
  static constexpr std::size_t most_inputs = 6;

  // How many steps each tensor has taken.
  std::vector<std::int64_t> before() const {
    std::vector<std::int64_t> steps(given_.sizes.size());
    for (std::size_t n = 0; n < steps.size(); ++n) steps[n] = static_cast<std::int64_t>(3 * n + 1);
    return steps;
  }
  std::size_t array(std::int64_t size, std::size_t shift, bool positive) {
    do memory_.want.push_back(T(NAN));
    while (memory_.want.size() % 4 != shift);
    const std::size_t start = memory_.want.size();
    for (std::int64_t i = 0; i < size; ++i) {
      state_ = state_ * 1664525u + 1013904223u;
      const T x = static_cast<T>(state_ >> 8) / T(1 << 23) - T(1);
      memory_.want.push_back(positive ? x * x : x);
    }
    return start;
  }

  // Views of a tensor's arrays; on the host, the step.
  View& view(std::size_t n, int input) { return views_[most_inputs * n + static_cast<std::size_t>(input)]; }
  void step(std::size_t n, const std::size_t* starts) {
    const std::int64_t size = given_.sizes[n];
    const DType dtype = sizeof(T) == 8 ? DType::f64 : DType::f32;
    for (int k = 0; k < rule_.arrays; ++k)
      view(n, k) = {memory_.data + starts[k], &given_.sizes[n], 1, dtype, size};
    view(n, 4) = {memory_.data, nullptr, 1, dtype, 3};
    if (rule_.arrays > 2) view(n, rule_.inputs() - 1) = {steps_ + n, nullptr, 1, DType::i64, 1};
    if (given_.bad_data) return;
    for (std::int64_t i = 0; i < size; ++i) {
      T* x[4] = {};
      for (int k = 0; k < rule_.arrays; ++k) x[k] = memory_.want.data() + starts[k] + i;
      rule_.step(static_cast<T>(attrs_[n].scalar), static_cast<T>(attrs_[n].scalar2), memory_.want.data(), x);
    }
  }

  const Case& given_;
  Rule<T> rule_;
  std::uint32_t state_;
  Memory<T> memory_;
  std::vector<Attrs> attrs_;
  std::vector<View> views_;
  double* numbers_ = nullptr;
  std::int64_t* steps_ = nullptr;
};

void set_status(std::int32_t code) {
  Status status{};
  status.code = code;
  gpu().upload(gpu().status(), &status, sizeof status);
}

// In float32 and float64, and both in turns of some tensors.
void check(const char* name, const Case& given) {
  bool right = true;
  std::uint64_t launches[3] = {};
  for (int which = 0; which < 3; ++which) {
    Work<float> narrow(given, rule_of<float>(which), 1);
    Work<double> wide(given, rule_of<double>(which), 2);
    Work<float> other(given, rule_of<float>(which), 3);  // with constants of its own
    std::vector<Launch> all;
    narrow.add_launches(all);
    other.add_launches(all);
    wide.add_launches(all);
    set_status(given.bad_data ? Status::index_out_of_range : Status::ok);
    const std::uint64_t before = sim::launches();
    rule_of<float>(which).kernel(all.data(), static_cast<std::int64_t>(all.size()));
    launches[which] = sim::launches() - before;
    gpu().synchronize();
    set_status(Status::ok);
    right = right && narrow.done() && wide.done() && other.done();
  }
  std::printf("%s %s %d %d %d\n", name, right ? "right" : "wrong", static_cast<int>(launches[0]),
              static_cast<int>(launches[1]), static_cast<int>(launches[2]));
}

std::vector<std::int64_t> sizes(std::size_t count) {
  std::vector<std::int64_t> all(count);
  for (std::size_t n = 0; n < count; ++n) all[n] = static_cast<std::int64_t>(n * 37 % 101);  // some are 0
  return all;
}

}  // namespace

void run_all() {
  const std::vector<std::int64_t> odd{1, 0, 7, 1023, 1024, 1025, 2047, 4099, 3, 0, 517};
  check("none", {{}});
  check("empty", {{0, 0}});
  check("one", {{5000}});
  check("odd", {odd});
  check("unaligned", {odd, 1});
  check("numbers", {odd, 0, on_device});
  check("bad", {odd, 0, on_device, true});
  check("thousand", {sizes(1000)});
  check("thousand_unaligned", {sizes(1000), 3, on_device});
}

}  // namespace edfcore

int main() { edfcore::run_all(); }
