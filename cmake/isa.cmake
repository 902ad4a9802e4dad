# Compile options shared by all targets, and the CPU kernels: on x86-64 every *.cpu.cpp is compiled once for each
# instruction set, into a namespace of its own, and those that multiply and add once more for SSE2 with exact ones.

function(edfcore_compile_options target)
  if(MSVC)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:/W4 /fp:precise /Zc:preprocessor>)
    return()
  endif()
  # Contraction is off and every fma explicit: an element's result must not depend on how it was compiled.
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -ffp-contract=off>)
  if(EDFCORE_SANITIZE)
    # Lines are all that a report names; to follow variables through instrumented code takes a third of the build.
    set(flags -fsanitize=${EDFCORE_SANITIZE} -fno-omit-frame-pointer -g1)
    if(EDFCORE_SANITIZE MATCHES undefined)
      list(APPEND flags -fno-sanitize-recover=undefined)
    endif()
    target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${flags}>")
    target_link_options(${target} PUBLIC -fsanitize=${EDFCORE_SANITIZE})
  endif()
endfunction()

function(edfcore_add_cpu_kernels target)
  file(GLOB kernels CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/ops/*.cpu.cpp)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # Partial redundancy elimination and threaded jumps would carry the bounds of a clamped argument through the whole
    # formula, one select for each step, or make them branches, and the loop is not vectorised.
    set(formulas ${kernels})
    list(FILTER formulas INCLUDE REGEX "(elementwise|softmax|loss)[.]cpu[.]cpp$")
    set_source_files_properties(${formulas} PROPERTIES COMPILE_OPTIONS "-fno-tree-pre;-fno-thread-jumps")
  endif()
  set(sets base)
  if(EDFCORE_MULTI_ISA AND CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$" AND CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang"
     AND NOT CMAKE_OSX_ARCHITECTURES MATCHES "arm64")
    list(APPEND sets exact avx2 avx512)
    target_compile_definitions(${target} PUBLIC EDFCORE_MULTI_ISA)
  endif()
  set(multiply_and_add ${kernels})
  list(FILTER multiply_and_add INCLUDE REGEX "(binary|elementwise|loss|matmul|softmax)[.]cpu[.]cpp$")
  list(TRANSFORM multiply_and_add REPLACE "[.]cpu[.]cpp$" ".cpp" OUTPUT_VARIABLE records)
  set_property(SOURCE ${records} APPEND PROPERTY COMPILE_DEFINITIONS EDFCORE_EXACT_KERNELS)
  set(flags_base "")
  set(flags_exact -DEDF_EXACT)
  set(flags_avx2 -mavx2 -mfma)
  set(flags_avx512 -mavx2 -mfma -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)
  foreach(isa IN LISTS sets)
    set(objects edfcore_kernels_${isa})
    set(optimised -O3)
    set(own ${kernels})
    if(isa STREQUAL "exact")  # slow in any case, so small
      set(optimised -O2)
      set(own ${multiply_and_add})
    endif()
    add_library(${objects} OBJECT ${own})
    target_include_directories(${objects} PRIVATE ${PROJECT_SOURCE_DIR}/csrc)
    target_compile_definitions(${objects} PRIVATE EDF_ISA=isa_${isa})
    if(NOT MSVC)
      # Nobody reads errno or the exception flags after a kernel: with them, selects would stay branches, and no
      # loop that holds one would be vectorised. Neither changes a value.
      target_compile_options(${objects} PRIVATE ${flags_${isa}} -fno-math-errno -fno-trapping-math $<$<CONFIG:Release,RelWithDebInfo>:${optimised}>)
    endif()
    edfcore_compile_options(${objects})
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${objects}>)
  endforeach()
endfunction()
