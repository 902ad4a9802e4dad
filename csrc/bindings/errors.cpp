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

void raise(const Error& error) {
  try {
    const py::object type = py::module_::import("edfcore.errors").attr(class_name(error.kind()));
    PyErr_SetString(type.ptr(), error.what());
  } catch (py::error_already_set& of_the_import) {
    of_the_import.restore();
  }
}

}  // namespace

void init_errors() {
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const Error& error) {
      raise(error);
    }
  });
}

void raise_in_python() noexcept {
  try {
    throw;
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const Error& error) {
    raise(error);
  } catch (const py::builtin_exception& error) {
    error.set_error();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
}

}  // namespace edfcore
