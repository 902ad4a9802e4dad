// Stream capture on the simulated device: launches are written down, and a graph runs them in their order.
#include <memory>
#include <vector>

#include "device/sim/sim.h"

struct CUgraph_st {
  std::vector<edfcore::sim::Launched> launches;
};
struct CUgraphExec_st {
  std::vector<edfcore::sim::Launched> launches;
};

namespace edfcore::sim {

static thread_local std::unique_ptr<CUgraph_st> captured;  // by this thread, which has begun and not ended

bool capturing() { return captured != nullptr; }

void write_down(Launched launched) { captured->launches.push_back(std::move(launched)); }

}  // namespace edfcore::sim

using edfcore::sim::captured;

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  if (captured) return cudaErrorIllegalState;
  captured = std::make_unique<CUgraph_st>();
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  if (!captured) return cudaErrorIllegalState;
  *graph = captured.release();
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
  *made = new CUgraphExec_st{graph->launches};
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t) {
  for (const edfcore::sim::Launched& each : graph->launches)
    edfcore::sim::run_grid(each.config, each.thread, each.call.get());
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete graph;
  return cudaSuccess;
}
