// Typed errors: the one exception class of the engine, and the helper that builds its message.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace edfcore {

enum class ErrorKind {
  shape,   // shapes do not fit together
  dtype,   // a dtype that the op does not take, or dtypes that differ
  data,    // a value that the op refuses: a label out of range, a NaN
  device,  // no such device, device lost, device API failure
  memory,  // an allocation that could not be served
  graph,   // misuse of the graph: not a node, no value yet, no gradient
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const noexcept { return kind_; }

 private:
  ErrorKind kind_;
};

// Everything printable, one after the other.
template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

template <class... Parts>
[[noreturn]] void fail(ErrorKind kind, const Parts&... parts) {
  throw Error(kind, text(parts...));
}

}  // namespace edfcore
