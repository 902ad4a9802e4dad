// For *.cu: exp and its kin by dtype, from CUDA's own library; math_cpu.h has those of the CPU kernels.
#pragma once

#include <math.h>

#include "ops/exponential.h"

namespace edfcore::EDF_ISA {

// Overloads of our own, since std:: ones are inline functions.
EDF_HD inline float exp_(float x) { return expf(x); }
EDF_HD inline double exp_(double x) { return ::exp(x); }
EDF_HD inline float log_(float x) { return logf(x); }
EDF_HD inline double log_(double x) { return ::log(x); }
EDF_HD inline float log1p_(float x) { return log1pf(x); }
EDF_HD inline double log1p_(double x) { return ::log1p(x); }
EDF_HD inline float tanh_(float x) { return tanhf(x); }
EDF_HD inline double tanh_(double x) { return ::tanh(x); }
EDF_HD inline float sqrt_(float x) { return sqrtf(x); }
EDF_HD inline double sqrt_(double x) { return ::sqrt(x); }
EDF_HD inline float abs_(float x) { return fabsf(x); }
EDF_HD inline double abs_(double x) { return ::fabs(x); }

}  // namespace edfcore::EDF_ISA
