// Whose turn it is to work with the session, and what is done with it whichever face asks.
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

#include "bindings/bindings.h"
#include "core/error.h"
#include "graph/run.h"
#include "graph/session.h"

namespace edfcore {

static std::mutex turns;
static std::atomic<std::thread::id> whose_turn;
static std::atomic<int> wishes{0};

Turn::Wish::Wish() { ++wishes; }
Turn::Wish::~Wish() {
  --wishes;
  release_sites();  // the GIL is back
}
bool Turn::wanted() { return wishes.load() > 0; }

Turn::Turn() {
  if (whose_turn.load() == std::this_thread::get_id()) {
    // Reached from a signal handler alone, since nothing else of Python's runs within a turn.
    py::gil_scoped_acquire gil;
    fail(ErrorKind::graph, "a node was used by a signal handler in the middle of a step.");
  }
  turns.lock();
  whose_turn = std::this_thread::get_id();
}

Turn::~Turn() {
  whose_turn = std::thread::id();
  turns.unlock();
}

void poll_signals() {
  static std::atomic<std::int64_t> last{0};  // looked at now and then, not before every step of a plan
  const std::int64_t now = std::chrono::duration_cast<std::chrono::milliseconds>(
                               std::chrono::steady_clock::now().time_since_epoch())
                               .count();
  if (now - last.load(std::memory_order_relaxed) < 20) return;
  last = now;
  py::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

void finish_step() {
  if (session().idle()) return;
  const Turn turn;
  session().finish();
}

void leave_session(bool goes_on) {
  if (session().idle()) return;
  const Turn turn;
  if (goes_on) session().settle();
  session().leave();
}

void look_at_value(Node& node) {
  if (session().idle() && !node.elided) return;
  const Turn turn;
  session().look_at_value(node);
}

void check_data(Device device) {
  if (device.type == DeviceType::cpu) return;
  try {
    check_status(device);
  } catch (...) {
    session().abandon();
    throw;
  }
}

}  // namespace edfcore
