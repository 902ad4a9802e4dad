// Makes and switches fibers: assembly for x86-64 and aarch64, ucontext elsewhere.
#include "device/sim/fiber.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if (defined(__x86_64__) || defined(__aarch64__)) && !defined(_WIN32) && !defined(EDFCORE_SIM_UCONTEXT)
#define EDF_SIM_ASSEMBLY 1
#else
#include <ucontext.h>
#endif

#if defined(EDF_SIM_ASSEMBLY)

// Saves what the calling convention says a call preserves, stores the stack pointer, and does the reverse on
// the other stack. Floating-point control words are not switched: kernels do not change them.
extern "C" void edfcore_sim_switch(void** save, void* load);
extern "C" void
edfcore_sim_enter();  // first thing a fiber runs: jumps to the function that reset_fiber stored

#if defined(__APPLE__)
#define EDF_SIM_SYMBOL(name) "_" #name
#define EDF_SIM_FUNCTION(name) ".globl _" #name "\n.private_extern _" #name "\n_" #name ":\n"
#else
#define EDF_SIM_SYMBOL(name) #name
#define EDF_SIM_FUNCTION(name) ".globl " #name "\n.hidden " #name "\n" #name ":\n"
#endif

#if defined(__x86_64__)
asm(".text\n.p2align 4\n" EDF_SIM_FUNCTION(edfcore_sim_switch) R"(
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.p2align 4
)" EDF_SIM_FUNCTION(edfcore_sim_enter) R"(
    xorl %ebp, %ebp
    jmp *%rbx
)");
constexpr int body_word = 4;    // rbx
constexpr int return_word = 6;  // where `ret` goes
constexpr int frame_words = 8;  // the last is the null address that `enter` would return to
#else
asm(".text\n.p2align 4\n" EDF_SIM_FUNCTION(edfcore_sim_switch) R"(
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.p2align 4
)" EDF_SIM_FUNCTION(edfcore_sim_enter) R"(
    mov x29, xzr
    mov x30, xzr
    br x19
)");
constexpr int body_word = 0;     // x19
constexpr int return_word = 11;  // x30
constexpr int frame_words = 20;
#endif
#endif

namespace edfcore::sim {
namespace {

#if defined(EDF_SIM_ASAN)
constexpr size_t stack_bytes = 512 << 10;  // instrumented frames and ASan's own report are large
#else
constexpr size_t stack_bytes = 128 << 10;
#endif

#if defined(EDF_SIM_ASAN)
Fiber* came_from = nullptr;  // whose stack bounds ASan tells us at the next arrival

void arrive(void* fake_stack) {
  const void* bottom = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(fake_stack, &bottom, &size);
  if (came_from != nullptr && came_from->stack_size == 0) {  // the host's stack, whose bounds only ASan knows
    came_from->stack = static_cast<char*>(const_cast<void*>(bottom));
    came_from->stack_size = size;
  }
}
#endif

void (*entry_body)() = nullptr;  // the same for every fiber of a block

void enter() {
#if defined(EDF_SIM_ASAN)
  arrive(nullptr);
#endif
  entry_body();
  abort();  // a body never returns
}

}  // namespace

Fiber* new_fiber(void (*body)(), int number) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* memory =
      mmap(nullptr, page + stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    fputs("simulated device: no memory for a thread's stack\n", stderr);
    abort();
  }
  mprotect(memory, page, PROT_NONE);
  auto* fiber = new Fiber;
  fiber->stack = static_cast<char*>(memory) + page;
  fiber->stack_size = stack_bytes;
  reset_fiber(*fiber, body, number);
  return fiber;
}

void reset_fiber(Fiber& fiber, void (*body)(), int number) {
  entry_body = body;
#if defined(EDF_SIM_ASAN)
  __asan_unpoison_memory_region(fiber.stack, fiber.stack_size);
  fiber.fake_stack = nullptr;
#endif
  // Stacks that all began at the same place within a page would fight for the same lines of the cache.
  const size_t colour = static_cast<size_t>(number % 32) * 192;
  char* top = fiber.stack + fiber.stack_size - colour;
#if defined(EDF_SIM_ASSEMBLY)
  auto* frame = reinterpret_cast<void**>(top) - frame_words;
  for (int i = 0; i < frame_words; ++i) frame[i] = nullptr;
  frame[body_word] = reinterpret_cast<void*>(&enter);
  frame[return_word] = reinterpret_cast<void*>(&edfcore_sim_enter);
  fiber.stack_pointer = frame;
#else
  auto* context = static_cast<ucontext_t*>(fiber.stack_pointer);
  if (context == nullptr) context = new ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = fiber.stack;
  context->uc_stack.ss_size = static_cast<size_t>(top - fiber.stack);
  context->uc_link = nullptr;
  makecontext(context, &enter, 0);
  fiber.stack_pointer = context;
#endif
}

void switch_fiber(Fiber& from, Fiber& to) {
#if defined(EDF_SIM_ASAN)
  came_from = &from;
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.stack_size);
#endif
#if defined(EDF_SIM_ASSEMBLY)
  edfcore_sim_switch(&from.stack_pointer, to.stack_pointer);
#else
  if (from.stack_pointer == nullptr) from.stack_pointer = new ucontext_t;
  swapcontext(static_cast<ucontext_t*>(from.stack_pointer), static_cast<ucontext_t*>(to.stack_pointer));
#endif
#if defined(EDF_SIM_ASAN)
  arrive(from.fake_stack);
#endif
}

}  // namespace edfcore::sim
