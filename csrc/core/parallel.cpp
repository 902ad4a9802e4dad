// The thread pool: one job at a time, chunks claimed from a shared counter, the caller working too.
#include "core/parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
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

struct Job {
  void (*task)(void*, std::int64_t) = nullptr;
  void* context = nullptr;
  std::int64_t chunks = 0;
  std::atomic<std::int64_t> next{0};

  void work() {
    inside_task = true;
    for (std::int64_t chunk; (chunk = next.fetch_add(1)) < chunks;) task(context, chunk);
    inside_task = false;
  }
};

class Pool {
 public:
  explicit Pool(int workers) {
    threads_.reserve(workers);
    try {
      for (int i = 0; i < workers; ++i) threads_.emplace_back([this] { loop(); });
    } catch (const std::system_error&) {
      // The system gives no more threads; results do not depend on their number.
    }
  }

  ~Pool() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void run(Job& job) {
    {
      std::lock_guard lock(mutex_);
      job_ = &job;
      ++generation_;
    }
    wake_.notify_all();
    job.work();  // a worker that sleeps through the job costs nothing: the caller takes its chunks
    std::unique_lock lock(mutex_);
    job_ = nullptr;  // no worker joins from here on; those inside still look at `job`
    idle_.wait(lock, [&] { return busy_ == 0; });
  }

 private:
  void loop() {
    std::uint64_t seen = 0;
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return stop_ || (job_ && generation_ != seen); });
      if (stop_) return;
      seen = generation_;
      Job* job = job_;
      ++busy_;
      lock.unlock();
      job->work();
      lock.lock();
      if (--busy_ == 0) idle_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  std::vector<std::thread> threads_;
  Job* job_ = nullptr;
  std::uint64_t generation_ = 0;
  int busy_ = 0;
  bool stop_ = false;
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

}  // namespace

void parallel_chunks(std::int64_t chunks, void (*task)(void*, std::int64_t), void* context) noexcept {
  if (chunks <= 1 || inside_task) {
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) task(context, chunk);
    return;
  }
  State& s = state();
  Job job;
  job.task = task;
  job.context = context;
  job.chunks = chunks;
  std::unique_lock lock(s.mutex, std::try_to_lock);
  if (!lock || s.threads == 1) {
    job.work();
    return;
  }
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
