// NumPy arrays to tensors and back. NumPy is loaded at the first use of one of these. NumPy itself has no
// bfloat16: the package ml_dtypes has, and where that is not there, a float32 array shows the same values.
#include <cstring>

#include "bindings/bindings.h"
#include "core/error.h"
#include "device/memory.h"
#include "ops/widened.h"

namespace edfcore {
namespace {

void drop_array(Buffer& buffer) {
  if (!Py_IsInitialized()) return;
  py::gil_scoped_acquire gil;
  Py_DECREF(static_cast<PyObject*>(buffer.owner));
}

// A C-contiguous, aligned, native array of T with the object's values: the object itself where it is one
// already.
template <class T>
py::array convert(const py::array& array) {
  constexpr int flags = py::array::c_style | py::array::forcecast | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  return py::array_t<T, flags>::ensure(array);
}

py::array converted(const py::array& array, DType dtype) {
  switch (dtype) {
    case DType::f32:
      return convert<float>(array);
    case DType::f64:
      return convert<double>(array);
    case DType::i32:
      return convert<std::int32_t>(array);
    case DType::i64:
      return convert<std::int64_t>(array);
    case DType::u8:
      return convert<std::uint8_t>(array);
    case DType::b1:
      return convert<bool>(array);
    default:  // a half type, which it has already
      return py::module_::import("numpy").attr("require")(array, from_dtype(dtype), py::make_tuple("C", "A"));
  }
}

bool is_bfloat(const py::dtype& given) {
  return given.kind() == 'V' && given.itemsize() == 2 && py::str(given).equal(py::str("bfloat16"));
}

// The dtype that the engine gives values of this NumPy dtype; nothing for what it does not take.
std::optional<DType> engine_dtype(const py::dtype& given, std::optional<DType> floating) {
  const py::ssize_t size = given.itemsize();
  switch (given.kind()) {
    case 'f':
      return floating ? *floating : size == 8 ? DType::f64 : size == 2 ? DType::f16 : DType::f32;
    case 'V':
      if (!is_bfloat(given)) return {};
      return floating ? *floating : DType::bf16;
    case 'b':
      return DType::u8;
    case 'u':
      return size == 1 ? DType::u8 : DType::i64;
    case 'i':
      return size == 4 ? DType::i32 : DType::i64;
    default:
      return {};
  }
}

Shape shape_of(const py::array& array, const std::string& what = "an array") {
  if (array.ndim() > max_rank)
    fail(ErrorKind::shape, what, " has ", array.ndim(), " axes: a tensor has at most ", max_rank, ".");
  Shape shape;
  for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) shape.push_back(array.shape(axis));
  return shape;
}

// What an array holds, where it can be read as it lies: nothing if it has to be converted.
std::optional<Spec> plain_spec(py::handle object, std::optional<DType> floating) {
  if (!py::isinstance<py::array>(object)) return {};
  const auto array = py::reinterpret_borrow<py::array>(object);
  const py::dtype given = array.dtype();
  const char kind = given.kind(), order = given.byteorder();
  const std::optional<DType> dtype = engine_dtype(given, floating);
  constexpr int needed = int{py::array::c_style} | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  if (!dtype || given.itemsize() != dtype_size(*dtype) || (kind == 'u' && given.itemsize() > 1) ||
      (given.itemsize() == 2 && !has_dtype(array, *dtype)) || (order != '=' && order != '|') ||
      (array.flags() & needed) != needed || array.ndim() > max_rank)
    return {};
  return Spec{*dtype, shape_of(array)};
}

Tensor borrowed(py::array array, const Spec& spec) {
  // Read-only arrays may be shared too: those who share only read.
  void* data = const_cast<void*>(array.data());
  return {spec, borrow(data, spec.bytes(), cpu_device, drop_array, array.release().ptr())};
}

}  // namespace

bool has_dtype(const py::array& array, DType dtype) {
  const py::dtype given = array.dtype();
  return dtype == DType::bf16 ? is_bfloat(given) : given.equal(from_dtype(dtype));
}

Tensor to_plain_tensor(py::handle object, std::optional<DType> floating) {
  const std::optional<Spec> spec = plain_spec(object, floating);
  if (!spec || spec->bytes() == 0) return {};
  return borrowed(py::reinterpret_borrow<py::array>(object), *spec);
}

DType to_dtype(py::handle dtype) {
  if (py::isinstance<py::str>(dtype) && dtype.equal(py::str(dtype_name(DType::bf16)))) return DType::bf16;
  const py::dtype wanted = py::dtype::from_args(py::reinterpret_borrow<py::object>(dtype));
  for (DType d : {DType::f32, DType::f64, DType::i32, DType::i64, DType::u8, DType::b1, DType::f16})
    if (wanted.equal(from_dtype(d))) return d;
  if (is_bfloat(wanted)) return DType::bf16;
  fail(ErrorKind::dtype, "edfcore has no dtype ", std::string(py::str(wanted)),
       ": it has float32, float64, bfloat16, float16, int32, int64, uint8.");
}

static py::dtype bfloat_dtype() {
  try {
    return py::dtype::from_args(py::module_::import("ml_dtypes").attr("bfloat16"));
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_ImportError)) throw;
    return py::dtype(dtype_name(DType::f32));
  }
}

py::dtype from_dtype(DType dtype) {
  static PyObject* known[16] = {};  // making one from its name takes longer than making an array
  PyObject*& kept = known[static_cast<std::size_t>(dtype)];
  if (!kept) kept = (dtype == DType::bf16 ? bfloat_dtype() : py::dtype(dtype_name(dtype))).release().ptr();
  return py::reinterpret_borrow<py::dtype>(kept);
}

DType shown_dtype(DType dtype) {
  if (dtype != DType::bf16) return dtype;
  const py::gil_scoped_acquire gil;
  return is_bfloat(from_dtype(dtype)) ? dtype : DType::f32;
}

Tensor to_tensor(py::handle object, std::optional<DType> floating, Device device, const std::string& what,
                 bool share) {
  py::array array = py::array::ensure(object);
  if (!array) {
    PyErr_Clear();
    fail(ErrorKind::dtype, what, " is a ", Py_TYPE(object.ptr())->tp_name, ", which is no array of numbers.");
  }
  const py::dtype given = array.dtype();
  const std::optional<DType> dtype = engine_dtype(given, floating);
  if (!dtype)
    fail(ErrorKind::dtype, what, " has dtype ", std::string(py::str(given)),
         ": it must hold floating-point numbers, integers or bools.");
  if (is_half(*dtype) && !has_dtype(array, *dtype)) {
    const bool wide = given.kind() == 'f' && given.itemsize() == 8;
    const DType by = wide ? DType::f64 : DType::f32;
    const Tensor half = in_dtype(to_tensor(array, by, cpu_device, what, true), *dtype);
    return device.type == DeviceType::cpu ? half : copy_to(half, device);
  }
  array = converted(array, *dtype);
  if (!array) throw py::error_already_set();

  const Spec spec{*dtype, shape_of(array, what)};
  // A conversion that owns its memory and that nobody else holds is as good as a copy.
  const bool fresh =
      array.ptr() != object.ptr() && array.owndata() && array.writeable() && array.ref_count() == 1;
  if (device.type == DeviceType::cpu && (share || fresh) && spec.bytes() > 0)
    return borrowed(std::move(array), spec);
  Tensor tensor = allocate(spec, device);
  const void* const data = array.data();
  const DeviceWait wait(device);
  if (spec.bytes() > 0) backend(device).upload(tensor.data(), data, spec.bytes());
  return tensor;
}

py::array as_array(const Tensor& host, bool writable) {
  if (const DType dtype = shown_dtype(host.spec.dtype); dtype != host.spec.dtype)
    return as_array(in_dtype(host, dtype), writable);
  retain(host.buffer.get());
  const py::capsule base(host.buffer.get(), [](void* p) { release(static_cast<Buffer*>(p)); });
  std::vector<py::ssize_t> shape(host.spec.shape.begin(), host.spec.shape.end());
  py::array array(from_dtype(host.spec.dtype), std::move(shape), host.data(), base);
  if (!writable) py::detail::array_proxy(array.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
  return array;
}

bool same_memory(py::handle object, const Tensor& host) {
  if (!host || !py::isinstance<py::array>(object)) return false;
  const auto array = py::reinterpret_borrow<py::array>(object);
  return array.data() == host.data() && (array.flags() & py::array::c_style) &&
         shape_of(array) == host.spec.shape && array.dtype().equal(from_dtype(host.spec.dtype));
}

}  // namespace edfcore
