// Engine errors become the exception classes of edfcore.errors.
#include "bindings/bindings.h"
#include "core/error.h"

namespace edfcore {
namespace {

const char* class_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::shape:
      return "ShapeError";
    case ErrorKind::dtype:
      return "DTypeError";
    case ErrorKind::data:
      return "DataError";
    case ErrorKind::device:
      return "DeviceError";
    case ErrorKind::memory:
      return "OutOfMemoryError";
    case ErrorKind::graph:
      return "GraphError";
  }
  return "Error";
}

}  // namespace

void init_errors() {
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const Error& error) {
      const py::object type = py::module_::import("edfcore.errors").attr(class_name(error.kind()));
      PyErr_SetString(type.ptr(), error.what());
    }
  });
}

}  // namespace edfcore
