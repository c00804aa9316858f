# What an application finds: find_package(fam CONFIG), or pkg-config fam.
include(CMakePackageConfigHelpers)

set(FAM_CONFIG_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/fam)
set(FAM_PLACES LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION
               ${CMAKE_INSTALL_LIBDIR} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS fam EXPORT famTargets ${FAM_PLACES})
install(DIRECTORY include/fam DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT famTargets NAMESPACE fam:: DESTINATION ${FAM_CONFIG_DIR})
if(FAM_BUILD_STATIC)
  install(TARGETS fam_static EXPORT famStaticTargets ${FAM_PLACES})
  install(EXPORT famStaticTargets NAMESPACE fam:: DESTINATION ${FAM_CONFIG_DIR})
endif()
if(FAM_BUILD_EXAMPLES)
  install(TARGETS fam_generate RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

configure_package_config_file(cmake/famConfig.cmake.in ${PROJECT_BINARY_DIR}/famConfig.cmake
                              INSTALL_DESTINATION ${FAM_CONFIG_DIR})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/famConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/famConfig.cmake ${PROJECT_BINARY_DIR}/famConfigVersion.cmake
              cmake/FindONNXRuntime.cmake cmake/Findutf8proc.cmake
        DESTINATION ${FAM_CONFIG_DIR})

# What `pkg-config --static` adds.
get_filename_component(FAM_ORT_DIR ${ONNXRuntime_LIBRARY} DIRECTORY)
file(RELATIVE_PATH FAM_PREFIX_FROM_PC /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
configure_file(cmake/fam.pc.in ${PROJECT_BINARY_DIR}/fam.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/fam.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
