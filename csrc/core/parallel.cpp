// The thread pool: one job at a time, whose chunks threads claim from counters, the caller working too.
#include "core/parallel.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include "core/error.h"

namespace edfcore {
namespace {

thread_local bool inside_task = false;

// Every thread begins with a part of its own, the same one in every job of that many chunks, so that it finds
// in its cache what it had there before; when that is done it helps with the others'.
struct Job {
  struct alignas(64) Part {
    std::atomic<std::int64_t> next;
    std::int64_t end;
  };
  static constexpr int most_parts = 64;

  void (*task)(void*, std::int64_t);
  void* context;
  int parts;
  Part part[most_parts];

  Job(void (*of)(void*, std::int64_t), void* with, std::int64_t chunks, int threads)
      : task(of), context(with), parts(std::min(threads, most_parts)) {
    for (int i = 0; i < parts; ++i) {
      part[i].next.store(chunks * i / parts, std::memory_order_relaxed);
      part[i].end = chunks * (i + 1) / parts;
    }
  }

  void work(int thread) {
    inside_task = true;
    for (int i = 0; i < parts; ++i) {
      Part& own = part[(thread + i) % parts];
      for (std::int64_t chunk; (chunk = own.next.fetch_add(1)) < own.end;) task(context, chunk);
    }
    inside_task = false;
  }
};

// Between two jobs of a step lie some microseconds, and waking a thread that sleeps takes longer: one that
// has just worked looks out for the next job that long, and only then goes to sleep.
constexpr auto lookout = std::chrono::microseconds(50);

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) && !defined(_MSC_VER)
  asm volatile("yield");
#else
  std::this_thread::yield();
#endif
}

// Until done(), or the time is over.
template <class Done>
void look_out(const Done& done) {
  const auto end = std::chrono::steady_clock::now() + lookout;
  do {
    for (int i = 0; i < 32; ++i) {
      if (done()) return;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
}

class Pool {
 public:
  explicit Pool(int workers) {
    // With fewer cores than threads, who looks out would take the time of who works.
    const unsigned cores = std::thread::hardware_concurrency();
    looks_out_ = static_cast<unsigned>(workers) < cores;
    threads_.reserve(workers);
    try {
      for (int i = 0; i < workers; ++i) threads_.emplace_back([this, i] { loop(i + 1); });
    } catch (const std::system_error&) {
      // The system gives no more threads; results do not depend on their number.
    }
  }

  ~Pool() {
    stop_ = true;
    ++generation_;
    generation_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void run(Job& job) {
    job_ = &job;
    ++generation_;
    generation_.notify_all();
    job.work(0);  // a worker that sleeps through the job costs nothing: the caller takes its chunks
    // A worker says that it is busy before it looks for the job, so none is at this one, or will be, once
    // nobody is busy.
    job_ = nullptr;
    if (busy_ == 0) return;
    if (looks_out_) look_out([&] { return busy_ == 0; });
    for (std::int32_t busy; (busy = busy_) != 0;) busy_.wait(busy);
  }

 private:
  void loop(int thread) {
    for (std::uint32_t seen = 0;;) {
      if (looks_out_) look_out([&] { return generation_ != seen; });
      generation_.wait(seen);
      seen = generation_;
      if (stop_) return;
      ++busy_;
      if (Job* job = job_) job->work(thread);
      if (--busy_ == 0) busy_.notify_one();
    }
  }

  std::vector<std::thread> threads_;
  std::atomic<Job*> job_{nullptr};
  std::atomic<std::uint32_t> generation_{0};
  std::atomic<std::int32_t> busy_{0};
  std::atomic<bool> stop_{false};
  bool looks_out_ = false;
};

constexpr int most_threads = 1024;

int default_threads() {
  if (const char* text = std::getenv("EDFCORE_NUM_THREADS")) {
    const int n = std::atoi(text);
    if (n >= 1) return std::min(n, most_threads);
  }
  const unsigned cores = std::thread::hardware_concurrency();
  return cores > 0 ? static_cast<int>(cores) : 1;
}

struct State {
  std::mutex mutex;  // held while a job runs: one job at a time, later callers work alone
  Pool* pool = nullptr;
  std::atomic<int> threads = default_threads();
};

// Leaked on purpose: workers may outlive static destruction, and a forked child must not join threads it does
// not have.
State& state() {
  static State* const instance = [] {
#if defined(__unix__) || defined(__APPLE__)
    pthread_atfork(nullptr, nullptr, [] {
      State& s = state();
      s.pool = nullptr;  // its threads did not survive the fork; the child makes new ones at first use
      new (&s.mutex) std::mutex;
    });
#endif
    return new State;
  }();
  return *instance;
}

// Made when the library is loaded: a fork while another thread is making it would leave the child waiting for
// that thread.
[[maybe_unused]] const State& made_at_load = state();

}  // namespace

void parallel_chunks(std::int64_t chunks, void (*task)(void*, std::int64_t), void* context) noexcept {
  if (chunks <= 1 || inside_task) {
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) task(context, chunk);
    return;
  }
  State& s = state();
  std::unique_lock<std::mutex> lock;
  const int threads = s.threads;
  if (threads > 1) lock = std::unique_lock(s.mutex, std::try_to_lock);
  Job job(task, context, chunks, lock ? threads : 1);
  if (!lock) return job.work(0);
  if (!s.pool) s.pool = new Pool(s.threads - 1);
  s.pool->run(job);
}

int num_threads() { return state().threads; }

void set_num_threads(int n) {
  if (n < 1) fail(ErrorKind::data, "set_num_threads(", n, "): at least 1 thread is needed.");
  n = std::min(n, most_threads);
  State& s = state();
  std::lock_guard lock(s.mutex);
  if (n == s.threads) return;
  delete s.pool;
  s.pool = nullptr;
  s.threads = n;
}

}  // namespace edfcore
