// A sequence of launches that a CUDA device has written down, to be run again as one: a graph's nodes follow
// each other faster than launches do, and the host issues them all at once.
#pragma once

#include "device/launch.h"

namespace edfcore {

// What issue(context) launches on the stream; nothing runs yet. Null where the driver refuses, or a launch
// was not valid: the launches themselves, made once more, then show why.
inline cudaGraphExec_t record_graph(cudaStream_t stream, void (*issue)(void*), void* context) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t made = nullptr;
  if (cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess) {
    issue(context);
    const bool valid = cudaPeekAtLastError() == cudaSuccess;
    if (cudaStreamEndCapture(stream, &graph) == cudaSuccess && graph != nullptr) {
      if (valid && cudaGraphInstantiate(&made, graph, 0) != cudaSuccess) made = nullptr;
      cudaGraphDestroy(graph);
    }
  }
  cudaGetLastError();
  return made;
}

}  // namespace edfcore
