# The backends `tensorrt` and `tensorrt-rtx`, where their headers are found.
#
# TENSORRT_ROOT, TENSORRT_RTX_ROOT: folders with include/. CUDA_ROOT: the same for CUDA's headers,
# which theirs include. The libraries are loaded when a backend is opened: libfam runs without them.
if(FAM_TENSORRT STREQUAL "OFF")
  return()
endif()

find_path(FAM_CUDA_INCLUDE_DIR cuda_runtime_api.h HINTS ${CUDA_ROOT} ENV CUDA_PATH
          PATHS /usr/local/cuda PATH_SUFFIXES include)
find_path(FAM_TENSORRT_INCLUDE_DIR NvInfer.h HINTS ${TENSORRT_ROOT} PATH_SUFFIXES include)
# Its headers have the names of TensorRT's: they are taken from nowhere but the folder that is named.
find_path(FAM_TENSORRT_RTX_INCLUDE_DIR NvInfer.h HINTS ${TENSORRT_RTX_ROOT} PATH_SUFFIXES include
          NO_DEFAULT_PATH)

# Compiles one source with the headers of one library, in `include_dir`, if they are there.
function(fam_add_nvinfer title include_dir is_rtx macro source)
  set(are_rtx OFF)
  if(include_dir)
    file(STRINGS ${include_dir}/NvInferVersion.h rtx_version REGEX "define TRT_MAJOR_RTX")
    if(rtx_version)
      set(are_rtx ON)
    endif()
  endif()
  if(NOT include_dir OR NOT FAM_CUDA_INCLUDE_DIR OR NOT are_rtx STREQUAL is_rtx)
    message(STATUS "${title}: headers not found, left out")
    return()
  endif()
  # NVIDIA's headers are not held to our warnings.
  if(MSVC)
    set(options /external:W0 "/external:I${include_dir}" "/external:I${FAM_CUDA_INCLUDE_DIR}")
  else()
    set(options -isystem "${include_dir}" -isystem "${FAM_CUDA_INCLUDE_DIR}")
  endif()
  set_source_files_properties(${CMAKE_CURRENT_SOURCE_DIR}/${source} PROPERTIES COMPILE_OPTIONS
                                                                               "${options}")
  target_compile_definitions(fam_objects PRIVATE ${macro})
  set(FAM_HAS_NVINFER ON PARENT_SCOPE)
  message(STATUS "${title}: ${include_dir}")
endfunction()

set(FAM_HAS_NVINFER OFF)
fam_add_nvinfer("TensorRT" "${FAM_TENSORRT_INCLUDE_DIR}" OFF FAM_WITH_TENSORRT
                engines/tensorrt/nvinfer.cpp)
fam_add_nvinfer("TensorRT for RTX" "${FAM_TENSORRT_RTX_INCLUDE_DIR}" ON FAM_WITH_TENSORRT_RTX
                engines/tensorrt/nvinfer_rtx.cpp)
if(FAM_TENSORRT STREQUAL "ON" AND NOT FAM_HAS_NVINFER)
  message(FATAL_ERROR "FAM_TENSORRT is ON: set TENSORRT_ROOT or TENSORRT_RTX_ROOT, and CUDA_ROOT")
endif()
