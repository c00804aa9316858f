# ONNXRuntime::ONNXRuntime: headers and library of ONNX Runtime.
#
# ONNXRUNTIME_ROOT: a release's folder, or any with include/ and lib/. Without it, the system's.
if(NOT "${ONNXRUNTIME_ROOT}" STREQUAL "${ONNXRuntime_LAST_ROOT}")
  unset(ONNXRuntime_INCLUDE_DIR CACHE)
  unset(ONNXRuntime_LIBRARY CACHE)
  set(ONNXRuntime_LAST_ROOT "${ONNXRUNTIME_ROOT}" CACHE INTERNAL "where it was looked for last")
endif()
find_path(ONNXRuntime_INCLUDE_DIR onnxruntime_cxx_api.h
          HINTS ${ONNXRUNTIME_ROOT} $ENV{ONNXRUNTIME_ROOT}
          PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session onnxruntime)
find_library(ONNXRuntime_LIBRARY NAMES onnxruntime libonnxruntime.so.1
             HINTS ${ONNXRUNTIME_ROOT} $ENV{ONNXRUNTIME_ROOT} PATH_SUFFIXES lib lib64)
mark_as_advanced(ONNXRuntime_INCLUDE_DIR ONNXRuntime_LIBRARY)

# Version 1.N has the number N of its API in the header.
if(ONNXRuntime_INCLUDE_DIR)
  file(STRINGS ${ONNXRuntime_INCLUDE_DIR}/onnxruntime_c_api.h ONNXRuntime_VERSION
       REGEX "^#define ORT_API_VERSION [0-9]+")
  string(REGEX REPLACE ".* ([0-9]+)$" "1.\\1" ONNXRuntime_VERSION "${ONNXRuntime_VERSION}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  ONNXRuntime REQUIRED_VARS ONNXRuntime_LIBRARY ONNXRuntime_INCLUDE_DIR
  VERSION_VAR ONNXRuntime_VERSION
  REASON_FAILURE_MESSAGE "set -DONNXRUNTIME_ROOT to the folder of an ONNX Runtime release")

if(ONNXRuntime_FOUND AND NOT TARGET ONNXRuntime::ONNXRuntime)
  add_library(ONNXRuntime::ONNXRuntime UNKNOWN IMPORTED)
  set_target_properties(
    ONNXRuntime::ONNXRuntime PROPERTIES IMPORTED_LOCATION ${ONNXRuntime_LIBRARY}
                                        INTERFACE_INCLUDE_DIRECTORIES ${ONNXRuntime_INCLUDE_DIR})
endif()
