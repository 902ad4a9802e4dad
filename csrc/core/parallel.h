// The thread pool. Work comes as numbered chunks whose number depends on shapes alone, so that results are
// the same for any number of threads. Starts no thread before first use, survives fork, parks when idle
// for 50 microseconds.
#pragma once

#include <cstdint>

namespace edfcore {

// Runs task(context, chunk) once for every chunk in [0, chunks), on the caller and on idle workers, and
// returns when all are done. One chunk runs on the caller without touching the pool. Calls from within a task
// run serially.
void parallel_chunks(std::int64_t chunks, void (*task)(void* context, std::int64_t chunk),
                     void* context) noexcept;

// Threads used from now on, the caller among them: EDFCORE_NUM_THREADS or the number of cores at start.
int num_threads();
void set_num_threads(int n);  // at most 1024 are used; throws a data error for n < 1

}  // namespace edfcore
