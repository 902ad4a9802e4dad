// The extension module: one init function per file of this room.
#include "bindings/bindings.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "The engine behind edfcore. Its faces are the modules of the package; use those.";
  m.attr("__version__") = EDFCORE_VERSION;
  edfcore::init_errors();
  edfcore::init_hosts();
  edfcore::init_engine(m);
  edfcore::init_objects(m);
  edfcore::init_values();
  edfcore::init_handles(m);
  edfcore::init_record(m);
  edfcore::init_sites(m);
  edfcore::init_edf(m);
  edfcore::init_plans(m);
  edfcore::init_eager(m);
  edfcore::init_functions(m);
}
