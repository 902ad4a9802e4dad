// What rows.cu calls right, computed in float64 by kernels that share nothing with those that they judge. An
// error is in units of what roundings explain: up to 1 a result is right.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace edfcore::rows {

enum class Op { softmax, log_softmax, softmax_grad, log_softmax_grad, loss, loss_grad };

constexpr int check_threads = 256;

__global__ void fill_labels(std::int32_t* labels, std::int64_t count, std::int64_t classes) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) labels[i] = static_cast<std::int32_t>((i * 2654435761ll + 12345) % classes);
}

// Over the block; all threads get it.
__device__ double combined(double value, bool max) {
  __shared__ double shared[check_threads];
  shared[threadIdx.x] = value;
  __syncthreads();
  for (unsigned half = check_threads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      const double a = shared[threadIdx.x], b = shared[threadIdx.x + half];
      shared[threadIdx.x] = max ? fmax(a, b) : a + b;
    }
    __syncthreads();
  }
  const double result = shared[0];
  __syncthreads();
  return result;
}

// NaN counts as infinite.
__device__ double units(double got, double right, double unit) {
  const double error = fabs(got - right) / unit;
  return error == error ? error : INFINITY;
}

// What is not negative has the order of its bits.
__device__ void note(float* worst, double error) {
  atomicMax(reinterpret_cast<int*>(worst), __float_as_int(static_cast<float>(error)));
}

// `a` is the op's scores or gradient, `b` its own output, or for loss_grad the gradient, one for each row.
__global__ void __launch_bounds__(check_threads, 1)
    check_rows(Op op, const float* a, const float* b, const std::int32_t* labels, const float* out,
               std::int64_t cols, float* worst) {
  const std::int64_t row = blockIdx.x;
  a += row * cols;
  const float* y = b + row * cols;
  double error = 0;
  if (op == Op::softmax_grad || op == Op::log_softmax_grad) {
    double sum = 0, magnitude = 0;
    for (std::int64_t c = threadIdx.x; c < cols; c += check_threads) {
      const double term = op == Op::softmax_grad ? static_cast<double>(a[c]) * y[c] : a[c];
      sum += term;
      magnitude += fabs(term);
    }
    sum = combined(sum, false);
    magnitude = combined(magnitude, false);
    for (std::int64_t c = threadIdx.x; c < cols; c += check_threads) {
      const double g = a[c], factor = op == Op::softmax_grad ? y[c] : exp(static_cast<double>(y[c]));
      const double right = op == Op::softmax_grad ? factor * (g - sum) : g - factor * sum;
      const double size =
          op == Op::softmax_grad ? fabs(factor) * (magnitude + fabs(g)) : factor * magnitude + fabs(g);
      error = fmax(error, units(out[row * cols + c], right, 1e-6 * size + 1e-30));
    }
  } else {
    double top = -INFINITY, sum = 0;
    for (std::int64_t c = threadIdx.x; c < cols; c += check_threads)
      top = fmax(top, static_cast<double>(a[c]));
    top = combined(top, true);
    for (std::int64_t c = threadIdx.x; c < cols; c += check_threads) sum += exp(a[c] - top);
    sum = combined(sum, false);
    if (op == Op::loss) {
      const double right = top - a[labels[row]] + log(sum);
      if (threadIdx.x == 0) error = units(out[row], right, 2e-6 * (1 + fabs(right)));
    } else {
      for (std::int64_t c = threadIdx.x; c < cols; c += check_threads) {
        const double x = a[c] - top, p = exp(x) / sum, here = c == labels[row] ? 1 : 0;
        const double right = op == Op::softmax       ? p
                             : op == Op::log_softmax ? x - log(sum)
                                                     : (p - here) * b[row];
        const double unit = op == Op::softmax       ? 2e-6 * p
                            : op == Op::log_softmax ? 1e-6 * (1 + fabs(right))
                                                    : 2e-6 * (p + here) * fabs(b[row]);
        error = fmax(error, units(out[row * cols + c], right, unit + 1e-30));
      }
    }
  }
  error = combined(error, true);
  if (threadIdx.x == 0) note(worst, error);
}

// Entries start[r] .. start[r + 1] of `position` say which rows of g are summed in row r.
__global__ void __launch_bounds__(check_threads, 1)
    check_scatter(const float* g, const std::int32_t* start, const std::int32_t* position, const float* out,
                  std::int64_t rows, std::int64_t width, float* worst) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * check_threads + threadIdx.x;
  if (i >= rows * width) return;
  const std::int32_t begin = start[i / width], end = start[i / width + 1];
  double sum = 0, magnitude = 0;
  for (std::int32_t e = begin; e < end; ++e) {
    const double term = g[position[e] * width + i % width];
    sum += term;
    magnitude += fabs(term);
  }
  note(worst,
       units(out[i], sum, 2e-6 * magnitude * (1 + sqrt(static_cast<double>(end - begin)) / 8) + 1e-30));
}

__global__ void __launch_bounds__(check_threads, 1)
    check_columns(const float* x, const float* out, std::int64_t rows, std::int64_t cols, bool max,
                  float* worst) {
  double result = max ? -INFINITY : 0, magnitude = 0;
  for (std::int64_t r = threadIdx.x; r < rows; r += check_threads) {
    const double value = x[r * cols + blockIdx.x];
    result = max ? fmax(result, value) : result + value;
    magnitude += fabs(value);
  }
  result = combined(result, max);
  magnitude = combined(magnitude, false);
  if (threadIdx.x == 0) note(worst, units(out[blockIdx.x], result, 1e-7 * fabs(result) + 1e-12 * magnitude));
}

}  // namespace edfcore::rows
