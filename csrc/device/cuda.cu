// The CUDA backend, under nvcc and on the simulated device: one stream per device, uploads through pinned
// memory, and errors that end the device told once and remembered.
//
// Nothing here calls CUDA before somebody asks for a device, so the library loads on machines without one.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <deque>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "device/backend.h"
#include "device/cuda_graph.h"
#include "device/cuda_memory.h"
#include "device/launch.h"
#include "device/launched.h"

namespace edfcore {
namespace {

constexpr std::size_t stage_half = std::size_t{4} << 20;
constexpr std::size_t small_download = std::size_t{64} << 10;
constexpr int status_words = 256;

__global__ void probe(Status* words) {
  if (threadIdx.x < status_words) words[threadIdx.x] = Status{};
}

// Which status word a host thread's kernels write: graphs of different threads must not see each other's bad
// labels.
class StatusSlot {
 public:
  StatusSlot() {
    const std::lock_guard lock(mutex());
    if (!unused().empty()) {
      number_ = unused().back();
      unused().pop_back();
    } else {
      number_ = next() < status_words ? next()++ : status_words - 1;  // beyond that, threads share the last
    }
  }
  ~StatusSlot() {
    const std::lock_guard lock(mutex());
    if (number_ < status_words - 1) unused().push_back(number_);
  }
  int number() const { return number_; }
  std::array<bool, max_cuda_devices> cleared{};  // by this thread; an earlier one may have left something

 private:
  static std::mutex& mutex() {
    static auto* instance = new std::mutex;
    return *instance;
  }
  static std::vector<int>& unused() {
    static auto* instance = new std::vector<int>;
    return *instance;
  }
  static int& next() {
    static int instance = 0;
    return instance;
  }
  int number_;
};

StatusSlot& status_slot() {
  thread_local StatusSlot slot;
  return slot;
}

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(int index) : index_(index), name_(text("cuda:", index)) {
    check(cudaSetDevice(index_), "opening the device");
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
    check(cudaMalloc(reinterpret_cast<void**>(&status_), status_words * sizeof(Status)),
          "opening the device");
    launch(probe, 1, status_words, 0, stream_, status_);
    check(cudaGetLastError(), "running a first kernel (is this build for another GPU?)");
    check(cudaStreamSynchronize(stream_), "running a first kernel");
  }

  Device device() const override { return {DeviceType::cuda, static_cast<std::int8_t>(index_)}; }

  void* allocate(std::size_t bytes) override {
    use();
    void* data = nullptr;
    check(memory_.allocate(&data, bytes, stream_, name_), "an allocation");
    return data;
  }
  void release(void* data, std::size_t bytes) noexcept override { memory_.release(data, bytes); }
  MemoryStats memory_stats() const override { return memory_.stats(); }
  void reset_peak() override { memory_.reset_peak(); }
  void empty_cache() override {
    use();
    memory_.empty_cache(stream_);
  }

  void upload(void* to, const void* host, std::size_t bytes) override {
    use();
    uploaded_.fetch_add(static_cast<std::int64_t>(bytes), std::memory_order_relaxed);
    const std::lock_guard lock(stage_mutex_);
    make_stage();
    auto* target = static_cast<char*>(to);
    const auto* source = static_cast<const char*>(host);
    while (bytes > 0) {
      if (stage_used_ == stage_half) {  // on to the other half, once its last copies are done
        check(cudaEventRecord(stage_done_[stage_at_], stream_), "an upload");
        stage_at_ ^= 1;
        check(cudaEventSynchronize(stage_done_[stage_at_]), "an upload");
        stage_used_ = 0;
      }
      const std::size_t n = std::min(bytes, stage_half - stage_used_);
      char* staged = stage_ + static_cast<std::size_t>(stage_at_) * stage_half + stage_used_;
      std::memcpy(staged, source, n);
      check(cudaMemcpyAsync(target, staged, n, cudaMemcpyHostToDevice, stream_), "an upload");
      stage_used_ = std::min(stage_half, (stage_used_ + n + 63) / 64 * 64);
      target += n;
      source += n;
      bytes -= n;
    }
  }

  void download(void* host, const void* from, std::size_t bytes) override {
    downloaded_.fetch_add(static_cast<std::int64_t>(bytes), std::memory_order_relaxed);
    fetch(host, from, bytes);
  }

  Copied copied() const override {
    return {uploaded_.load(std::memory_order_relaxed), downloaded_.load(std::memory_order_relaxed)};
  }

  void copy(void* to, const void* from, std::size_t bytes) override {
    use();
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_), "a copy");
  }

  void fill(void* to, int byte, std::size_t bytes) override {
    use();
    check(cudaMemsetAsync(to, byte, bytes, stream_), "a fill");
  }

  std::uint64_t mark() override {
    use();
    const std::lock_guard lock(mark_mutex_);
    cudaEvent_t event = nullptr;
    if (!spare_events_.empty()) {
      event = spare_events_.back();
      spare_events_.pop_back();
    } else {
      check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
    }
    check(cudaEventRecord(event, stream_), "marking the stream");
    marks_.push_back(event);
    while (marks_.size() > 64 && passed(marks_.front())) drop_first_mark();
    return first_mark_ + marks_.size() - 1;
  }

  bool reached(std::uint64_t mark) override {
    use();
    const std::lock_guard lock(mark_mutex_);
    if (mark >= first_mark_ + marks_.size()) fail(ErrorKind::device, name_, " has made no mark ", mark, ".");
    if (mark < first_mark_) return true;
    if (!passed(marks_[mark - first_mark_])) return false;
    while (first_mark_ <= mark) drop_first_mark();
    return true;
  }

  void wait(std::uint64_t mark) override {
    if (reached(mark)) return;
    cudaEvent_t event = nullptr;
    {
      const std::lock_guard lock(mark_mutex_);
      if (mark < first_mark_) return;
      event = marks_[mark - first_mark_];
    }
    // Another thread may retire this event meanwhile and even record it again: then this waits a little
    // longer.
    check(cudaEventSynchronize(event), "waiting for a mark");
  }

  void synchronize() override {
    use();
    finish("earlier work");
  }

  // Kernels go to the device that is current in the calling thread.
  void* stream() override {
    use();
    return stream_;
  }

  void* new_event() override {
    use();
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDefault), "making an event");
    return event;
  }
  void record_event(void* event) override {
    use();
    check(cudaEventRecord(static_cast<cudaEvent_t>(event), stream_), "recording an event");
  }
  double seconds(void* from, void* to) override {
    use();
    for (void* event : {from, to})
      check(cudaEventSynchronize(static_cast<cudaEvent_t>(event)), "waiting for an event");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(from), static_cast<cudaEvent_t>(to)),
          "timing events");
    return milliseconds * 1e-3;
  }
  void free_event(void* event) noexcept override { cudaEventDestroy(static_cast<cudaEvent_t>(event)); }

  void launched(std::span<const char* const> ops) override {
    since_.add(ops);
    const cudaError_t error = cudaPeekAtLastError();
    if (error == cudaSuccess) return;
    if (const cudaError_t now = cudaStreamQuery(stream_); now == cudaSuccess || now == cudaErrorNotReady) {
      since_.clear();  // the device goes on, so it is this launch that could not be
      since_.add(ops);
    }
    report(error, "a launch");
  }

  void* record(void (*issue)(void*), void* context) override {
    use();
    return record_graph(stream_, issue, context);
  }
  void repeat(void* recorded) override {
    use();
    check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(recorded), stream_), "running a plan");
  }
  void forget(void* recorded) noexcept override {
    cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(recorded));
  }

  Status* status() override {
    StatusSlot& slot = status_slot();
    Status* word = status_ + slot.number();
    if (!std::exchange(slot.cleared[static_cast<std::size_t>(index_)], true)) fill(word, 0, sizeof(Status));
    return word;
  }

  Status take_status() override {
    Status* word = status();
    Status found;
    fetch(&found, word, sizeof found);
    if (found.code != Status::ok) fill(word, 0, sizeof found);
    return found;
  }

 private:
  // Before anything else: the device is still there, and the one that this thread talks to.
  void use() {
    if (lost_.load(std::memory_order_acquire)) {
      const std::lock_guard lock(lost_mutex_);
      fail(ErrorKind::device, name_, " is lost to this process since an earlier error (", why_lost_,
           "). Start the program again to use it.");
    }
    check(cudaSetDevice(index_), "earlier work");
  }

  void check(cudaError_t error, const char* doing) {
    if (error != cudaSuccess) report(error, doing);
  }

  // Waits for the stream; errors of launches, which nobody has looked at yet, are among what it finds.
  void finish(const char* doing) {
    check(cudaStreamSynchronize(stream_), doing);
    check(cudaPeekAtLastError(), doing);
    since_.clear();
  }

  [[noreturn]] void report(cudaError_t error, const char* doing) {
    const std::string why = text(cudaGetErrorName(error), ": ", cudaGetErrorString(error));
    cudaGetLastError();
    // An error that stays after it was taken note of has ended the device for this process.
    const bool lost = stream_ != nullptr && cudaStreamSynchronize(stream_) != cudaSuccess;
    if (lost) {
      const std::lock_guard lock(lost_mutex_);
      if (!lost_) why_lost_ = why;
      lost_.store(true, std::memory_order_release);
    }
    const std::string before = since_.before(), after = since_.after();
    since_.clear();
    fail(ErrorKind::device, before, name_, " failed, as seen in ", doing, ": ", why, after,
         lost ? ". The device is lost to this process." : ".");
  }

  void fetch(void* host, const void* from, std::size_t bytes) {
    use();
    if (bytes == 0) return;
    if (bytes > small_download) {
      check(cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, stream_), "a download");
      finish("a download");
      return;
    }
    const std::lock_guard lock(stage_mutex_);
    make_stage();
    char* staged = stage_ + 2 * stage_half;
    check(cudaMemcpyAsync(staged, from, bytes, cudaMemcpyDeviceToHost, stream_), "a download");
    finish("a download");
    std::memcpy(host, staged, bytes);
  }

  void make_stage() {
    if (stage_ != nullptr) return;
    for (cudaEvent_t& done : stage_done_)
      if (done == nullptr) check(cudaEventCreateWithFlags(&done, cudaEventDisableTiming), "making an event");
    void* memory = nullptr;
    check(cudaMallocHost(&memory, 2 * stage_half + small_download), "an allocation of pinned memory");
    stage_ = static_cast<char*>(memory);
  }

  bool passed(cudaEvent_t event) {
    const cudaError_t error = cudaEventQuery(event);
    if (error == cudaSuccess) return true;
    if (error != cudaErrorNotReady) report(error, "earlier work");
    if (cudaPeekAtLastError() == cudaErrorNotReady) cudaGetLastError();  // no error at all
    return false;
  }

  void drop_first_mark() {
    spare_events_.push_back(marks_.front());
    marks_.pop_front();
    ++first_mark_;
  }

  const int index_;
  const std::string name_;
  cudaStream_t stream_ = nullptr;
  Status* status_ = nullptr;

  std::atomic<bool> lost_ = false;
  std::mutex lost_mutex_;
  std::string why_lost_;
  LaunchedOps since_;  // it was last waited for

  CudaMemory memory_;

  std::atomic<std::int64_t> uploaded_ = 0, downloaded_ = 0;

  std::mutex stage_mutex_;
  char* stage_ = nullptr;  // two halves for uploads, then room for a small download
  int stage_at_ = 0;
  std::size_t stage_used_ = 0;
  cudaEvent_t stage_done_[2] = {};

  std::mutex mark_mutex_;
  std::uint64_t first_mark_ = 1;
  std::deque<cudaEvent_t> marks_;  // of marks not yet known to be passed
  std::vector<cudaEvent_t> spare_events_;
};

}  // namespace

Backend& cuda_backend(int index) {
  static std::array<std::atomic<Backend*>, max_cuda_devices> made{};
  if (index >= 0 && index < max_cuda_devices)
    if (Backend* existing = made[static_cast<std::size_t>(index)].load(std::memory_order_acquire))
      return *existing;
  require_cuda_device(index);
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  auto& place = made[static_cast<std::size_t>(index)];
  // Never destroyed: arrays handed out may outlive everything, and CUDA may be gone before static destructors
  // run.
  if (place.load(std::memory_order_relaxed) == nullptr)
    place.store(new CudaBackend(index), std::memory_order_release);
  return *place.load(std::memory_order_relaxed);
}

}  // namespace edfcore
