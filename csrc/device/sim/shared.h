// The shared memory of the block that runs: arrays in an arena, poisoned when a block begins, with gaps
// between them that show a write past an end (under ASan any access).
#pragma once

#include <stddef.h>

#include <string>

namespace edfcore::sim {

void begin_shared_launch(size_t dynamic_bytes, size_t limit);
void begin_shared_block();
// The array of this identity, made when it is first asked for in a block; null when the block has no room for
// it.
void* find_shared(const void* identity, size_t bytes, size_t align);
void* find_dynamic_shared();  // null when the launch asked for none
// What was written past the end of an array, or nothing.
std::string end_shared_block();
void end_shared_launch();

}  // namespace edfcore::sim
