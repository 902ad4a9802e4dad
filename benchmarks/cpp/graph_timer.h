// Timing work on a stream: by events, and where it is short several times in one CUDA graph, so that the
// host's part does not count.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "hopper_harness.h"

namespace edfcore::hopper {

struct GraphTimer {
  cudaStream_t stream = nullptr;
  cudaEvent_t begin = nullptr, end = nullptr;

  GraphTimer() {
    EDF_CUDA(cudaStreamCreate(&stream));
    EDF_CUDA(cudaEventCreate(&begin));
    EDF_CUDA(cudaEventCreate(&end));
  }

  // Milliseconds that the stream takes for `work`.
  template <class Work>
  float elapsed(const Work& work) {
    float ms;
    EDF_CUDA(cudaEventRecord(begin, stream));
    work();
    EDF_CUDA(cudaEventRecord(end, stream));
    EDF_CUDA(cudaEventSynchronize(end));
    EDF_CUDA(cudaEventElapsedTime(&ms, begin, end));
    return ms;
  }

  // The median of microseconds of call(k), where k goes round `sets` copies of the memory; a sample is
  // `calls` of them.
  double median_us(int calls, int sets, int warm_up, int samples, const std::function<void(int)>& call) {
    int next = 0;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    if (calls > 1) {
      EDF_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
      for (int i = 0; i < calls; ++i) call(i % sets);
      EDF_CUDA(cudaStreamEndCapture(stream, &graph));
      EDF_CUDA(cudaGraphInstantiate(&exec, graph, 0));
    }
    const auto sample = [&] {
      if (exec == nullptr) {
        call(next++ % sets);
        EDF_CUDA(cudaGetLastError());
      } else {
        EDF_CUDA(cudaGraphLaunch(exec, stream));
      }
    };
    std::vector<double> us;
    for (int i = 0; i < warm_up; ++i) sample();
    for (int i = 0; i < samples; ++i) us.push_back(1e3 * elapsed(sample) / calls);
    if (exec != nullptr) {
      EDF_CUDA(cudaGraphExecDestroy(exec));
      EDF_CUDA(cudaGraphDestroy(graph));
    }
    std::sort(us.begin(), us.end());
    return us[us.size() / 2];
  }
};

}  // namespace edfcore::hopper
