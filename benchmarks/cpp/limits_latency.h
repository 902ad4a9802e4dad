// The half of limits.cu that measures waiting: launches, barriers, loads that depend on each other, the host.
#pragma once

// Launches. A kernel that is launched early (pdl) must wait before it reads what the one before it writes.

__device__ void begin_dependent() {
  HOPPER(asm volatile("griddepcontrol.launch_dependents;"); asm volatile("griddepcontrol.wait;" ::
                                                                             : "memory");)
}

template <bool Pdl>
__global__ void empty() {
  if constexpr (Pdl) begin_dependent();
}

// Every thread adds one to what another block wrote. Read past the first-level cache.
template <bool Pdl>
__global__ void step(const float* in, float* out) {
  if constexpr (Pdl) begin_dependent();
  const int from = (blockIdx.x + 1) % gridDim.x;
  out[blockIdx.x * blockDim.x + threadIdx.x] = __ldcg(in + from * blockDim.x + threadIdx.x) + 1;
}

bool built_for_hopper() {
  cudaFuncAttributes found{};
  CHECK(cudaFuncGetAttributes(&found, empty<true>));
  return found.ptxVersion >= 90;
}

const char* const kNeedsHopper = "not measured: needs compute capability 9.0, and a build for it";

void expect(bool right, const char* what) {
  if (!right) throw std::runtime_error(std::string("wrong result of ") + what);
}

template <class F>
void chain(const std::string& name, F&& node) {
  const double one = device_us(Graph(1, node)), few = device_us(Graph(100, node)),
               many = device_us(Graph(1000, node));
  report(name + ", graph, per node", (many - few) / 900, "us",
         "slope from 100 to 1000 nodes; whole graphs of 1, 100, 1000 nodes: " + std::to_string(one) + ", " +
             std::to_string(few) + ", " + std::to_string(many) + " us");
}

template <bool Pdl>
void launches_of(const std::string& kind) {
  const int threads = 256;
  auto nothing = [](int) { launch(empty<Pdl>, {.blocks = 1, .threads = 32, .pdl = Pdl}); };
  report("empty kernel" + kind + ", stream, per launch", device_us([&] { nothing(0); }, 1000), "us",
         "1000 in a row");
  report("empty kernel" + kind + ", host", host_us([&] { nothing(0); }, 500), "us",
         "time of a launch call, 500 in a row");
  chain("empty kernel" + kind, nothing);
  for (int blocks : {1, 16, processors}) {
    Device<float> a(blocks * threads), b(blocks * threads);
    auto pass = [&](int i) {
      launch(step<Pdl>, {.blocks = blocks, .threads = threads, .pdl = Pdl}, i % 2 != 0 ? b.at : a.at,
             i % 2 != 0 ? a.at : b.at);
    };
    Graph(100, pass)();
    for (float value : a.host(blocks * threads)) expect(value == 100, "a chain of kernels");
    const std::string name = "1 KB from block to block, " + std::to_string(blocks) + " blocks" + kind;
    chain(name, pass);
    int i = 0;
    report(name + ", stream, per launch", device_us([&] { pass(i++); }, 500), "us", "500 in a row");
  }
}

void launches() {
  launches_of<false>("");
  auto nothing = [](int) { launch(empty<false>, {.blocks = 1, .threads = 32}); };
  for (int nodes : {1, 100, 1000}) {
    const Graph graph(nodes, nothing);
    graph();
    const std::string note = std::to_string(nodes) + " nodes in a chain";
    report("graph launch, " + note + ", host", host_us(graph), "us", "one call of cudaGraphLaunch");
    report("graph launch, " + note + ", until done, host", host_us([&] {
             graph();
             CHECK(cudaStreamSynchronize(stream));
           }),
           "us");
  }
  if (built_for_hopper())
    launches_of<true>(", pdl");
  else
    report("empty kernel, pdl", 0, "us", kNeedsHopper);
}

// Barriers of a grid. With Exchange, 1 KB goes to the next block in every round, through global memory.

__device__ void own_barrier(unsigned* count, unsigned goal) {
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned seen;
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(count) : "memory");
    do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(count) : "memory");
    while (static_cast<int>(seen - goal) < 0);
  }
  __syncthreads();
}

template <bool Own, bool Exchange>
__global__ void __launch_bounds__(256) rounds_of_grid(unsigned* count, float* data, float* out, int rounds) {
  const int at = blockIdx.x * 256 + threadIdx.x, from = (blockIdx.x + 1) % gridDim.x * 256 + threadIdx.x;
  float x = 0;
  for (int r = 0; r < rounds; ++r) {
    float* half = data + r % 2 * gridDim.x * 256;  // the other half is still being read
    if constexpr (Exchange) half[at] = x;
    if constexpr (Own)
      own_barrier(count, (r + 1) * gridDim.x);
    else
      cooperative_groups::this_grid().sync();
    x = 1 + (Exchange ? __ldcg(half + from) : x);
  }
  out[at] = x;
}

template <bool Own, bool Exchange>
void grid_barrier(const char* name) {
  const int rounds = 10'000;
  for (int blocks : {16, processors}) {
    Device<unsigned> count(1);
    Device<float> data(2 * blocks * 256), out(blocks * 256);
    const double us = device_us([&] {
      CHECK(cudaMemsetAsync(count.at, 0, sizeof(unsigned), stream));
      launch(rounds_of_grid<Own, Exchange>, {.blocks = blocks, .threads = 256, .cooperative = true}, count.at,
             data.at, out.at, rounds);
    });
    for (float value : out.host(blocks * 256)) expect(value == rounds, name);
    report(std::string(name) + ", " + std::to_string(blocks) + " blocks", us * 1e3 / rounds, "ns",
           "10,000 barriers of blocks of 256 threads");
  }
}

void barriers() {
  grid_barrier<true, false>("grid barrier, own atomic counter");
  grid_barrier<false, false>("grid barrier, grid.sync");
  grid_barrier<true, true>("grid barrier, own atomic counter, and 1 KB passed on");
  grid_barrier<false, true>("grid barrier, grid.sync, and 1 KB passed on");
}

// Clusters. An address in shared memory is 32 bits wide; `remote` turns it into that of another block's.

__device__ unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

__device__ unsigned remote(unsigned address, unsigned rank) {
  unsigned there = address;
  HOPPER(asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));)
  return there;
}

__device__ unsigned load_remote(unsigned address) {
  unsigned value = 0;
  HOPPER(asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");)
  return value;
}

__device__ void store_remote(unsigned address, unsigned value) {
  HOPPER(asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(address), "r"(value) : "memory");)
}

// A release of all memory costs a fence of the whole device. Relaxed, it orders nothing: the barrier alone.
template <bool Relaxed = false>
__device__ void cluster_barrier() {
  if constexpr (Relaxed) {
    HOPPER(asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");)
  } else {
    HOPPER(asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");)
  }
  HOPPER(asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");)
}

// The grid is one cluster.
template <bool Exchange, bool Relaxed>
__global__ void __launch_bounds__(256) rounds_of_cluster(unsigned* out, int rounds) {
  __shared__ unsigned data[2][256];
  const unsigned from = remote(shared_address(&data[0][threadIdx.x]), (blockIdx.x + 1) % gridDim.x);
  unsigned x = 0;
  for (int r = 0; r < rounds; ++r) {
    if constexpr (Exchange) data[r % 2][threadIdx.x] = x;
    cluster_barrier<Relaxed>();
    x = 1 + (Exchange ? load_remote(from + r % 2 * sizeof(data[0])) : x);
  }
  cluster_barrier();  // a block's shared memory is gone when it ends
  out[blockIdx.x * 256 + threadIdx.x] = x;
}

constexpr int kLinks = 1024;

// Chases addresses that lie in this block's shared memory, or in the next one's.
template <bool Remote>
__global__ void chase_shared(unsigned* out, int steps) {
  __shared__ unsigned links[kLinks];
  const unsigned mine = shared_address(links), first = Remote ? remote(mine, blockIdx.x ^ 1) : mine;
  if constexpr (Remote) cluster_barrier();
  if (threadIdx.x == 0 && blockIdx.x == 0) {
    for (unsigned i = 0; i < kLinks; ++i) {
      const unsigned next = first + (i + 37) % kLinks * 4;
      if constexpr (Remote)
        store_remote(first + i * 4, next);
      else
        links[i] = next;
    }
    unsigned p = first;
    for (int i = 0; i < steps; ++i) {
      if constexpr (Remote)
        p = load_remote(p);
      else
        asm volatile("ld.shared.u32 %0, [%0];" : "+r"(p)::"memory");
    }
    *out = (p - first) / 4;
  }
  __syncwarp();
  if constexpr (Remote) cluster_barrier();
}

template <bool Exchange, bool Relaxed>
void rounds_with(int blocks) {
  const int rounds = 10'000;
  Device<unsigned> out(blocks * 256);
  CHECK(cudaFuncSetAttribute(rounds_of_cluster<Exchange, Relaxed>,
                             cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  const double us = device_us([&] {
    launch(rounds_of_cluster<Exchange, Relaxed>, {.blocks = blocks, .threads = 256, .cluster = blocks},
           out.at, rounds);
  });
  for (unsigned value : out.host(blocks * 256)) expect(value == rounds, "a cluster");
  report("cluster barrier, " + std::to_string(blocks) + " blocks" + (Relaxed ? ", relaxed" : "") +
             (Exchange ? ", and 1 KB passed on" : ""),
         us * 1e3 / rounds, "ns", "10,000 barriers of blocks of 256 threads, one cluster");
}

template <bool Remote>
void shared_latency(const char* name) {
  const int steps = 100'000;
  Device<unsigned> out(1);
  const int blocks = Remote ? 2 : 1;
  const double us = device_us([&] {
    launch(chase_shared<Remote>, {.blocks = blocks, .threads = 32, .cluster = blocks}, out.at, steps);
  });
  expect(out.host(1)[0] == steps % kLinks * 37 % kLinks, name);
  report(name, us * 1e3 / steps, "ns", "loads that depend on each other");
}

void clusters(int major) {
  shared_latency<false>("shared memory latency");
  if (major < 9 || !built_for_hopper()) {
    report("cluster barrier", 0, "ns", kNeedsHopper);
    return;
  }
  shared_latency<true>("latency of another block's shared memory");
  for (int blocks : {2, 4, 8, 16}) {
    rounds_with<false, true>(blocks);
    rounds_with<false, false>(blocks);
    rounds_with<true, false>(blocks);
  }
}

// Latencies of global memory.

// Link i leads to link 5 + 1664525 i, which visits all of them (their number is a power of two) in no simple
// order.
__global__ void link_all(void** first, unsigned stride, unsigned n) {
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
    first[size_t(i) * stride] = first + size_t((1664525U * i + 5U) & (n - 1)) * stride;
}

template <bool FirstLevel>
__global__ void chase(void** first, void** last, int steps) {
  const void* p = *last == nullptr ? first : *last;
  for (int i = 0; i < steps; ++i) {
    if constexpr (FirstLevel)
      asm volatile("ld.global.ca.u64 %0, [%0];" : "+l"(p)::"memory");
    else
      asm volatile("ld.global.cg.u64 %0, [%0];" : "+l"(p)::"memory");
  }
  *last = const_cast<void*>(p);
}

// Each run goes on where the last one ended, so that a chain longer than the cache is never found in it.
template <bool FirstLevel>
void global_latency(const char* name, size_t bytes, unsigned stride_bytes) {
  const unsigned stride = stride_bytes / sizeof(void*);
  const unsigned n = static_cast<unsigned>(bytes / stride_bytes);
  const int steps = 10'000;
  Device<void*> links(bytes / sizeof(void*)), last(1);
  Device<char> other(size_t(256) << 20);  // cleared last, which leaves little of the links in the cache
  launch(link_all, {.blocks = processors * 8, .threads = 256}, links.at, stride, n);
  CHECK(cudaMemsetAsync(other.at, 1, size_t(256) << 20, stream));
  const double us =
      device_us([&] { launch(chase<FirstLevel>, {.blocks = 1, .threads = 1}, links.at, last.at, steps); });
  report(name, us * 1e3 / steps, "ns",
         std::to_string(n) + " links, one in each " + std::to_string(stride_bytes) +
             " bytes, in shuffled order");
}

void latencies() {
  global_latency<true>("first-level cache hit latency", 16 << 10, 128);
  global_latency<false>("L2 hit latency, 256 KiB", 256 << 10, 128);
  global_latency<false>("L2 hit latency, 1 MiB", 1 << 20, 128);
  global_latency<false>("L2 hit latency, 16 MiB", 16 << 20, 2048);
  global_latency<false>("memory latency, 128 MiB", 128 << 20, 128);
  global_latency<false>("memory latency, 1 GiB", 1 << 30, 256);
}

// The host. All its memory is pinned.

__global__ void write_one(volatile float* out) { *out = 1; }

template <class F>
double round_trip(F&& call) {
  return host_us([&] {
    call();
    CHECK(cudaStreamSynchronize(stream));
  });
}

void host() {
  const size_t large = size_t(64) << 20, minibatch = 64 * 784 * 4;
  Device<char> there(large);
  char* here = nullptr;
  float* mapped = nullptr;
  CHECK(cudaHostAlloc(&here, large, cudaHostAllocMapped));
  CHECK(cudaHostGetDevicePointer(&mapped, here, 0));
  std::fill(here, here + large, 'x');
  auto up = [&](size_t n) { CHECK(cudaMemcpyAsync(there.at, here, n, cudaMemcpyHostToDevice, stream)); };
  auto down = [&](size_t n) { CHECK(cudaMemcpyAsync(here, there.at, n, cudaMemcpyDeviceToHost, stream)); };
  auto kernel = [] { launch(empty<false>, {.blocks = 1, .threads = 32}); };
  report("synchronise, idle, host", host_us([] { CHECK(cudaStreamSynchronize(stream)); }), "us");
  report("kernel and synchronise, host", round_trip(kernel), "us", "an empty kernel");
  for (size_t n : {size_t(4), minibatch}) {
    const std::string what = std::to_string(n) + " bytes";
    report("to device, " + what + ", until done, host", round_trip([&] { up(n); }), "us");
    report("to device, " + what + ", the call, host", host_us([&] { up(n); }), "us");
    report("to device, " + what + ", in a row", device_us([&] { up(n); }, 20), "us", "20 in a row");
  }
  report("to host, 4 bytes, until done, host", round_trip([&] { down(4); }), "us");
  report("kernel, then 4 bytes to host, until done, host", round_trip([&] {
           kernel();
           down(4);
         }),
         "us", "what it costs to read a loss");
  report("kernel that writes 4 bytes to host memory, until done, host",
         round_trip([&] { launch(write_one, {.blocks = 1, .threads = 1}, mapped); }), "us");
  report("kernel that writes 4 bytes to host memory, until seen, host", host_us([&] {
           volatile float* seen = reinterpret_cast<float*>(here);
           *seen = 0;
           launch(write_one, {.blocks = 1, .threads = 1}, mapped);
           while (*seen != 1) {
           }
         }),
         "us", "the host watches the memory instead of synchronising");
  report("to device, 64 MiB", large * 1e-3 / device_us([&] { up(large); }), "GB/s");
  report("to host, 64 MiB", large * 1e-3 / device_us([&] { down(large); }), "GB/s");
  CHECK(cudaFreeHost(here));
}
