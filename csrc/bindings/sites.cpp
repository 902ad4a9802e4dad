// Call sites: a code object and an instruction, turned into "file:line" only when an error is printed.
#include <string_view>

#include "bindings/bindings.h"

namespace edfcore {
namespace {

std::string package_directory;  // frames in here are ours, not the user's

bool is_ours(PyCodeObject* code) {
  Py_ssize_t size = 0;
  const char* file = PyUnicode_AsUTF8AndSize(code->co_filename, &size);
  if (!file) PyErr_Clear();  // a name that is no text; not ours, then
  return file && std::string_view(file, static_cast<std::size_t>(size)).starts_with(package_directory);
}

#if PY_VERSION_HEX >= 0x030b0000
std::int32_t position_of(PyFrameObject* frame) { return PyFrame_GetLasti(frame); }
int line_of(const Site& site) {
  return PyCode_Addr2Line(static_cast<PyCodeObject*>(site.code), site.position);
}
#else
std::int32_t position_of(PyFrameObject* frame) { return PyFrame_GetLineNumber(frame); }
int line_of(const Site& site) { return site.position; }
#endif

// Code objects of nodes that this thread has freed without the GIL: to take it for each of them would take
// longer than all the rest.
std::vector<PyObject*>& freed() {
  thread_local std::vector<PyObject*> codes;
  return codes;
}

void release_site(const Site& site) {
  if (!Py_IsInitialized()) return;
  auto* const code = static_cast<PyObject*>(site.code);
  if (PyGILState_Check()) return Py_DECREF(code);
  freed().push_back(code);
}

#ifdef _WIN32
constexpr const char* separators = "/\\";
#else
constexpr const char* separators = "/";
#endif

std::string describe_site(const Site& site) {
  py::gil_scoped_acquire gil;
  PyObject* bytes = PyUnicode_AsEncodedString(static_cast<PyCodeObject*>(site.code)->co_filename, "utf-8",
                                              "backslashreplace");
  if (!bytes) throw py::error_already_set();
  const std::string file = py::reinterpret_steal<py::bytes>(bytes);
  return file.substr(file.find_last_of(separators) + 1) + ":" + std::to_string(line_of(site));
}

}  // namespace

void release_sites() {
  std::vector<PyObject*>& codes = freed();
  while (!codes.empty()) {
    PyObject* const code = codes.back();
    codes.pop_back();
    Py_DECREF(code);
  }
}

void capture_site(Node& node) {
  PyFrameObject* frame = PyEval_GetFrame();
  Py_XINCREF(reinterpret_cast<PyObject*>(frame));
  while (frame) {
    PyCodeObject* code = PyFrame_GetCode(frame);
    if (!is_ours(code)) {
      node.site = {code, position_of(frame)};
      Py_DECREF(reinterpret_cast<PyObject*>(frame));
      return;
    }
    Py_DECREF(reinterpret_cast<PyObject*>(code));
    PyFrameObject* outer = PyFrame_GetBack(frame);
    Py_DECREF(reinterpret_cast<PyObject*>(frame));
    frame = outer;
  }
}

void init_sites(py::module_& m) {
  site_hooks() = {release_site, describe_site};
  m.def(
      "set_package_directory", [](const std::string& directory) { package_directory = directory; },
      py::arg("directory"), "Frames of files under this directory are not where a user made a node.");
}

}  // namespace edfcore
