# `find_package(edfcore)` for C++ programs. A Python wheel holds none of this: it installs the component "python".
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(cuda_dependency "")
if(EDFCORE_CUDA_MODE STREQUAL "ON")
  set(cuda_dependency "find_dependency(CUDAToolkit)\n")
endif()
set(config_dir ${CMAKE_INSTALL_LIBDIR}/cmake/edfcore)
install(TARGETS edfcore_core EXPORT edfcore ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT cpp)
install(DIRECTORY csrc/core csrc/device csrc/ops csrc/graph DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/edfcore
  COMPONENT cpp FILES_MATCHING PATTERN "*.h" PATTERN "sim" EXCLUDE)
install(EXPORT edfcore NAMESPACE edfcore:: FILE edfcore-targets.cmake DESTINATION ${config_dir} COMPONENT cpp)
file(WRITE ${PROJECT_BINARY_DIR}/edfcore-config.cmake
  "include(CMakeFindDependencyMacro)\n"
  "find_dependency(Threads)\n"
  "${cuda_dependency}"
  "include(\${CMAKE_CURRENT_LIST_DIR}/edfcore-targets.cmake)\n")
write_basic_package_version_file(${PROJECT_BINARY_DIR}/edfcore-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/edfcore-config.cmake ${PROJECT_BINARY_DIR}/edfcore-config-version.cmake
  DESTINATION ${config_dir} COMPONENT cpp)
